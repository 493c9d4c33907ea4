"""Find out if a text that is read as a one-byte encoding is UTF-8: its characters would be read as pairs of others."""

import codecs
from collections.abc import Iterator
from typing import Final

_HIGH: Final = bytes(range(0x80, 0x100))


def is_one_byte(encoding: str) -> bool:
    """Return whether an encoding reads each byte above ASCII as a character of its own."""
    try:
        text = _HIGH.decode(encoding, "replace")
    except (UnicodeError, LookupError):
        return False
    return len(text) == len(_HIGH) and text.count("\ufffd") < len(_HIGH) // 2


class Utf8Look:
    """Watches bytes. Afterwards `is_utf8` says if they are valid UTF-8 with a character of several bytes."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._is_valid = True
        self._has_high = False

    @property
    def is_utf8(self) -> bool:
        """Return whether the bytes so far are such a text."""
        return self._is_valid and self._has_high

    def watch(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the chunks as they are."""
        for chunk in chunks:
            self._see(chunk)
            yield chunk
        self._see(b"", final=True)

    def _see(self, chunk: bytes, *, final: bool = False) -> None:
        if not self._is_valid:
            return
        self._has_high = self._has_high or not chunk.isascii()
        try:
            self._decoder.decode(chunk, final)
        except UnicodeDecodeError:
            self._is_valid = False
