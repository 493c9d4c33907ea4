"""The body of an answer, read and decoded within one bound.

No encoding is asked for (`Accept-Encoding: identity`), but gateways compress what they like. gzip is
decoded here; aiohttp's own decoding has no bound, and a small answer could take all memory.
"""

import zlib
from typing import Final

import aiohttp

BODY_BYTES_MAX: Final = 4 * 1024 * 1024
TOO_LONG: Final = f"it is longer than {BODY_BYTES_MAX // 2**20} MiB"
_NONE: Final = frozenset({"", "identity"})
_GZIP: Final = frozenset({"gzip", "x-gzip"})  # RFC 9110, 8.4.1.3
_OTHERS: Final = frozenset(
    {"br", "compress", "deflate", "zstd"}
)  # the names that a message repeats
_GZIP_WINDOW: Final = 31  # zlib: the largest window, and the frame of gzip


class BodyProblem(Exception):
    """The body cannot be read; the text says why, in words of ours."""


async def read_body(response: aiohttp.ClientResponse) -> bytes:
    """Return the whole body, decoded.

    Raises:
        BodyProblem: If it is longer than the bound, compressed in another way than gzip, or no gzip.
    """
    parts, size = [], 0
    while chunk := await response.content.read(BODY_BYTES_MAX + 1 - size):
        parts.append(chunk)
        size += len(chunk)
        if size > BODY_BYTES_MAX:
            raise BodyProblem(TOO_LONG)
    body = b"".join(parts)
    encoding = ", ".join(response.headers.getall("Content-Encoding", [])).lower()
    return body if encoding in _NONE or not body else decoded(body, encoding)


def decoded(body: bytes, encoding: str) -> bytes:
    """Return a body without its encoding (a Content-Encoding in lower case). Raises BodyProblem."""
    if encoding not in _GZIP:
        how = f"by {encoding}" if encoding in _OTHERS else "in an unknown way"
        raise BodyProblem(f"it is compressed {how}, which was not asked for")
    unpacking = zlib.decompressobj(_GZIP_WINDOW)
    try:
        plain = unpacking.decompress(body, BODY_BYTES_MAX + 1)
    except zlib.error:
        raise BodyProblem("its gzip cannot be read") from None
    if len(plain) > BODY_BYTES_MAX:
        raise BodyProblem(TOO_LONG)
    if not unpacking.eof or unpacking.unused_data:
        raise BodyProblem("its gzip is cut short, or more follows")
    return plain
