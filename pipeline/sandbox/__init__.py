"""A small stateful Canvas on loopback, for the commands `sandbox` and `demo` and for tests.

It is a second, independent reading of the Canvas pages: it imports nothing of the rest of `pipeline`. A
test against it proves no more than agreement with those pages.

    sandbox = Sandbox(load_seed(path), faults=load_faults("rough"))
    async with serve(sandbox) as url:
        ...
    sandbox.account()["effects"]
"""

from pipeline.sandbox.app import serve
from pipeline.sandbox.faults import PROFILES, Faults, load_faults
from pipeline.sandbox.sandbox import Sandbox
from pipeline.sandbox.seed import load_seed

__all__ = ["PROFILES", "Faults", "Sandbox", "load_faults", "load_seed", "serve"]
