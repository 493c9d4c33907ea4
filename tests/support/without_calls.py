"""Runs a program for which the kernel lacks some calls, as an older one does: it answers with ENOSYS (x86-64 only).

It is independent of `pipeline.system.confinement`. `python -m tests.support.without_calls NUMBER[,NUMBER] PROGRAM ARGUMENT...`
"""

import ctypes
import errno
import os
import platform
import struct
import sys

LANDLOCK = "444,445,446"


def is_possible() -> bool:
    return sys.platform == "linux" and platform.machine() == "x86_64"


def take_away(numbers: list[int]) -> None:
    steps = [(0x20, 0, 0, 0)]
    for number in numbers:
        steps += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | errno.ENOSYS)]
    steps.append((0x06, 0, 0, 0x7FFF0000))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(code)))
    libc = ctypes.CDLL(None)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, program, 0, 0) == 0


if __name__ == "__main__":
    take_away([int(number) for number in sys.argv[1].split(",")])
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - that is what it is for
