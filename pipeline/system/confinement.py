"""Confine a process: close its memory to other processes of the same user, and files and the network to itself.

By the kernel's own calls on Linux: Landlock for files (since 5.13), seccomp for sockets and other processes. Of the
packages for Python, landlock has only development releases, and pyseccomp (2021) wants a library that images lack.
If the kernel lacks one of them, `lacking` reports it.

A Landlock rule binds the calling thread and what it starts later, so `confine` comes before libraries that start threads.
"""

import contextlib
import ctypes
import os
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

FILES: Final = "files"
NETWORK: Final = "network"

# Of the call prctl(2).
_SET_DUMPABLE: Final = 4
_SET_SECCOMP: Final = 22
_SET_NO_NEW_PRIVS: Final = 38
_FILTER: Final = 2
# landlock(7): the calls have the same numbers on all architectures.
_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_VERSION: Final = 1
_PATH_BENEATH: Final = 1
_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_TRUNCATE: Final = 1 << 14
_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # number of rights for files in each version
_SCOPES: Final = 0b11  # since version 6: abstract sockets, and signals to others
_SCOPED_SINCE: Final = 6
# Of seccomp(2), from linux/filter.h and linux/audit.h.
_LOAD: Final = 0x20
_IS: Final = 0x15
_IS_FROM: Final = 0x35
_ANSWER: Final = 0x06
_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
_REFUSE: Final = 0x00050000 | 1  # EPERM
_X32: Final = 0x40000000  # the second numbering of x86-64
_ARCHITECTURES: Final = {  # its name to audit, and the numbers of the calls in _SHUT
    "x86_64": (0xC000003E, (41, 53, 59, 322, 62, 101, 310, 311, 424, 425, 438)),
    "aarch64": (0xC00000B7, (198, 199, 221, 281, 129, 117, 270, 271, 424, 425, 438)),
}
_SHUT: Final = (
    "socket", "socketpair", "execve", "execveat", "kill", "ptrace", "process_vm_readv", "process_vm_writev",
    "pidfd_send_signal", "io_uring_setup", "pidfd_getfd",
)  # fmt: skip


def close_memory() -> None:
    """Allow no core dump, and no other process of the same user to look: secrets and rows are in memory.

    The second works only on Linux. It also disables a crash handler that core dumps are piped to, and makes root
    the owner of /proc/PID/environ. A started program does not inherit it.
    """
    with contextlib.suppress(ImportError):  # Windows has none
        import resource  # noqa: PLC0415

        _, most = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, most))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DUMPABLE, 0, 0, 0, 0)


def lacking() -> list[str]:
    """Return what this kernel cannot close: FILES, NETWORK, or nothing."""
    found = {FILES: _landlock_version() > 0, NETWORK: _has_seccomp()}
    return [name for name, is_there in found.items() if not is_there]


def confine(read: Iterable[Path], written: Iterable[Path]) -> None:
    """Close all files and folders but these to this process, and the network, as far as the kernel can.

    Args:
        read: Files, and folders with all their content, that may be read. Missing ones are left out.
        written: Existing files that may be read and written.

    Raises:
        OSError: The kernel has the call, and it failed.
    """
    if sys.platform != "linux":
        return
    lacks = lacking()
    _called("prctl", _SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if FILES not in lacks:
        _shut_files(read, written)
    if NETWORK not in lacks:
        _shut_network()


def _landlock_version() -> int:
    if sys.platform != "linux":
        return 0
    return int(ctypes.CDLL(None).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _VERSION))


def _has_seccomp() -> bool:
    """Return whether the kernel takes filters: a null filter gives EFAULT if it does, otherwise EINVAL."""
    if sys.platform != "linux" or os.uname().machine not in _ARCHITECTURES:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_SET_SECCOMP, _FILTER, None, 0, 0)
    return ctypes.get_errno() == 14  # noqa: PLR2004 - EFAULT


def _called(name: str, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    answer = int(getattr(libc, name)(*arguments))
    if answer < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return answer


def _shut_files(read: Iterable[Path], written: Iterable[Path]) -> None:
    version = _landlock_version()
    handled = (1 << _RIGHTS[min(version, max(_RIGHTS))]) - 1
    ruleset = struct.pack("=Q", handled)
    if version >= _SCOPED_SINCE:
        ruleset = struct.pack("=QQQ", handled, 0, _SCOPES)
    rules = _called("syscall", _CREATE_RULESET, ruleset, ctypes.c_size_t(len(ruleset)), 0)
    allowed = dict.fromkeys(read, _READ_FILE | _READ_DIR)
    allowed |= dict.fromkeys(written, _READ_FILE | _WRITE_FILE | _TRUNCATE)
    for path, rights in allowed.items():
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            if not path.is_dir():
                rights &= ~_READ_DIR  # noqa: PLW2901
            beneath = struct.pack("=Qi", rights & handled, handle)
            _called("syscall", _ADD_RULE, rules, _PATH_BENEATH, beneath, 0)
            os.close(handle)
    _called("syscall", _RESTRICT_SELF, rules, 0)
    os.close(rules)


def _shut_network() -> None:
    """Refuse sockets, other programs, and other processes' memory; kill for calls of another architecture."""
    audited, numbers = _ARCHITECTURES[os.uname().machine]
    refused = [(_IS_FROM, _X32), *((_IS, number) for number in numbers)]
    steps = [(_LOAD, 0, 0, 4), (_IS, 1, 0, audited), (_ANSWER, 0, 0, _KILL), (_LOAD, 0, 0, 0)]
    steps += [(code, len(refused) - at, 0, value) for at, (code, value) in enumerate(refused)]
    steps += [(_ANSWER, 0, 0, _ALLOW), (_ANSWER, 0, 0, _REFUSE)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(code)))
    _called("prctl", _SET_SECCOMP, _FILTER, program, 0, 0)
