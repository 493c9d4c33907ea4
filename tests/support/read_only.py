"""Runs a program that can write below some folders only, by Landlock: a machine without a folder for temporary files.

It is independent of `pipeline.system.confinement`. `python -m tests.support.read_only FOLDER[:FOLDER] PROGRAM ARGUMENT...`
"""

import ctypes
import os
import sys

_WRITES = 0b11111111110010  # all rights of the second version but to execute and to read: with files moved elsewhere
_PATH_BENEATH = 1
_NO_NEW_PRIVS = 38


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("rights", ctypes.c_uint64), ("folder", ctypes.c_int32))


def is_possible() -> bool:
    return sys.platform == "linux" and int(ctypes.CDLL(None).syscall(444, None, 0, 1)) > 1


def restrict(folders: list[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    handled = ctypes.c_uint64(_WRITES)
    rules = libc.syscall(444, ctypes.byref(handled), 8, 0)
    assert rules >= 0, os.strerror(ctypes.get_errno())
    for folder in folders:
        beneath = _Beneath(_WRITES, os.open(folder, os.O_PATH))
        assert libc.syscall(445, rules, _PATH_BENEATH, ctypes.byref(beneath), 0) == 0
    assert libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    assert libc.syscall(446, rules, 0) == 0


if __name__ == "__main__":
    restrict([*sys.argv[1].split(":"), "/dev"])
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - that is what it is for
