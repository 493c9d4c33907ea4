"""The reason why a request got no answer, from the errors of the operating system and of the parser.

The texts of those errors are never repeated, because they hold addresses and parts of answers.
"""

import errno
import re
from typing import Final

HTTP2_ONLY: Final = "it answers in HTTP/2 only, and canvas-ingest uses HTTP/1.1"
_BY_NUMBER: Final = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.ENETUNREACH: "network unreachable",
    errno.EHOSTUNREACH: "no route to the host",
    errno.ETIMEDOUT: "timed out",
    errno.EACCES: "forbidden by this machine",
    errno.EPERM: "forbidden by this machine",
    errno.EMFILE: "too many open files on this machine",
    errno.EADDRNOTAVAIL: "no free local port or address",
}
_NUMBER: Final = re.compile(r"\[Errno (\d{1,4})\]")  # of an error that wraps several
# The repr of an HTTP/2 SETTINGS frame of stream 0 (RFC 9113, 3.4), with which such a server begins.
_SETTINGS: Final = re.compile(r"b['\"]\\x00\\x00(?:\\x..|\\?.)\\x04\\x00\\x00\\x00\\x00\\x00")
_TEXT_MAX: Final = 2_000  # characters of an error's text that are looked at


def cause(error: BaseException) -> str:
    """Return why a request got no answer; "" if nothing more is known than the kind of the problem."""
    if isinstance(error, OSError):
        return _of_system(error)
    text = str(getattr(error, "message", ""))[:_TEXT_MAX]
    return HTTP2_ONLY if _SETTINGS.search(text) else ""


def _of_system(error: OSError) -> str:
    numbers = [error.errno] if error.errno else map(int, _NUMBER.findall(str(error)[:_TEXT_MAX]))
    causes = dict.fromkeys(_BY_NUMBER[number] for number in numbers if number in _BY_NUMBER)
    return " and ".join(causes)
