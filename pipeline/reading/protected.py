"""Quote the cells that a spreadsheet protects: `="00123"`, unquoted, is read as the text `="00123"`. Pure."""

import re
from collections.abc import Iterator
from typing import Final

from pipeline.reading.bounds import ROW_BYTES_MAX

_SIGN: Final = b'="'


def quoted(chunks: Iterator[bytes], delimiter: bytes) -> Iterator[bytes]:
    """Yield a text in which each whole cell `="..."` is quoted.

    Quoted cells are passed over as a whole, so that nothing in them changes.
    """
    sign = re.escape(delimiter)
    cells = re.compile(
        rb'"(?:[^"]|"")*"|(?<![^'
        + sign
        + rb'\n])="([^"\r\n'
        + sign
        + rb']*)"(?![^'
        + sign
        + rb"\r\n])"
    )

    def quote(match: "re.Match[bytes]") -> bytes:
        return match[0] if match[1] is None else b'"=""' + match[1] + b'"""'

    held = b""  # of a row that is not at its end
    for chunk in chunks:
        held += chunk
        end = _end_of_rows(held)
        if end == 0 and len(held) > ROW_BYTES_MAX:
            end = len(held)  # `Shape` refuses this row
        rows, held = held[:end], held[end:]
        yield cells.sub(quote, rows) if _SIGN in rows else rows
    yield cells.sub(quote, held)


def _end_of_rows(text: bytes) -> int:
    """Return where the last row of a text ends: after a line end with an even number of quotes before it."""
    end = text.rfind(b"\n") + 1
    odd = text.count(b'"', 0, end) % 2
    while end and odd:
        before = text.rfind(b"\n", 0, end - 1) + 1
        odd = (odd + text.count(b'"', before, end)) % 2
        end = before
    return end
