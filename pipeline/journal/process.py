"""The name of a process that holds a lease, and whether that process is known to have ended."""

import os
import socket
from functools import cache
from pathlib import Path


@cache
def _machine() -> str:
    """Return this boot of this machine, our process namespace and our user; "" if not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}/{os.getuid()}"
    except OSError:
        return ""


def ourselves() -> str:
    """Return the name of this process in a lease: host, process number, its start, and boot of the machine."""
    return f"{socket.gethostname()} {os.getpid()} {start_of(os.getpid())} {_machine()}"


def is_gone(holder: str) -> bool:
    """Return whether a holder is known to have ended: a process of this boot of this machine.

    A process with its number that started later is another one, and one that only waits to be reaped runs no more.
    """
    _, number, *begun, machine = holder.split(" ")  # version 1 named no start
    if not machine or machine != _machine():
        return False
    now = start_of(int(number))
    return not now or now not in (begun or [now])


def start_of(number: int) -> str:
    """Return when a process started, in ticks since the boot; "" if it has ended."""
    try:
        state, *fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state in {"Z", "X"} else fields[18]  # proc(5): the 22nd
