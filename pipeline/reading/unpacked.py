"""The bytes of a file as UTF-8 text: unpacked, decoded, and counted, chunk by chunk."""

import codecs
import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final, cast

from pipeline.errors import InputError
from pipeline.reading.bounds import ROW_BYTES_MAX, UNPACKED_BYTES_FREE, UNPACKED_RATIO_MAX
from pipeline.reading.foreign import foreign_bytes
from pipeline.rows import groups

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_MAGIC_BYTES: Final = 64  # in which files of other kinds are recognised
_GZIP, _ZSTD, PARQUET, ZIP = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1", b"PK\x03\x04"
PACKED: Final = {".gz": _GZIP, ".zst": _ZSTD}
_FOREIGN: Final = {  # the first bytes of files of other kinds
    ZIP: "a zip archive or an Excel workbook",
    b"%PDF": "a PDF",
    b"BZh9": "compressed with bzip2",
    b"\xfd7zX": "compressed with xz",
}
_UTF_WIDE: Final = ("utf-16", "utf_16", "utf16", "utf-32", "utf_32", "utf32")
_UTF16_BOMS: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def unpack_chunks(raw: BinaryIO, path: Path, digest: Callable[[bytes], object]) -> Iterator[bytes]:
    """Yield the file's bytes, decompressed by the name's ending; `digest` sees the bytes on disk. Raises InputError."""
    head = raw.read(_MAGIC_BYTES)
    magic = head[:4]
    raw.seek(0)
    tee = cast("BinaryIO", _Tee(raw, digest))
    packed = PACKED.get(path.suffix)
    if packed is None and magic.startswith((_GZIP, _ZSTD, PARQUET)):
        raise InputError(
            "the file is compressed or Parquet, and its name says text",
            "name it .gz, .zst or .parquet",
            file=path.name,
        )
    if kind := foreign_bytes(head):
        raise InputError(*kind, file=path.name)
    if magic in _FOREIGN:
        raise InputError(
            f"the file is {_FOREIGN[magic]}, and no text with a header and rows",
            "unpack it or have it exported as CSV or Parquet; name a workbook .xlsx; .gz and .zst are read as they are",
            file=path.name,
        )
    if packed is not None and not magic.startswith(packed):
        raise InputError(
            f"the name ends in {path.suffix} and the file is not compressed so",
            "take the ending off its name, or compress it",
            file=path.name,
        )
    stream: BinaryIO = tee
    if packed is not None:
        opened = gzip.GzipFile(fileobj=tee) if packed == _GZIP else zstd.ZstdFile(tee)
        stream = cast("BinaryIO", opened)
    unpacked = 0
    try:
        while chunk := stream.read(groups.BOUNDS.chunk_bytes):
            unpacked += len(chunk)
            if unpacked > max(UNPACKED_BYTES_FREE, raw.tell() * UNPACKED_RATIO_MAX):
                raise InputError(
                    f"the compressed file unpacks to more than {UNPACKED_RATIO_MAX:,} times its size",
                    "ask the sender what it is; if it is right, have it sent unpacked",
                    file=path.name,
                )
            yield chunk
    except (EOFError, OSError, zlib.error, zstd.ZstdError):
        raise InputError(
            "the compressed file is damaged or cut short",
            "ask the sender for it again",
            file=path.name,
        ) from None
    for _ in iter(lambda: tee.read(groups.BOUNDS.chunk_bytes), b""):
        pass  # what follows is hashed, too


class _Tee(io.RawIOBase):
    """A reader that passes every byte that it reads, in order, to a second consumer."""

    def __init__(self, raw: BinaryIO, see: Callable[[bytes], object]) -> None:
        self._raw = raw
        self._see = see

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        chunk = self._raw.read(size)
        self._see(chunk)
        return chunk

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        """Read the next bytes into a buffer."""
        chunk = self.read(len(buffer))
        buffer[: len(chunk)] = chunk
        return len(chunk)


def decode_chunks(chunks: Iterator[bytes], path: Path, encoding: str) -> Iterator[bytes]:
    """Yield the text as UTF-8 without a byte order mark. Raises InputError for bytes that the encoding lacks.

    A text that begins with the mark of UTF-8 is UTF-8, whatever the feed says. Reject files are written
    so if the feed's encoding lacks one of their characters (`reporting/csv_files.py`).
    """
    head = next(chunks, b"")
    is_utf8 = head.startswith(codecs.BOM_UTF8) or codecs.lookup(encoding).name == "utf-8"
    decoder = codecs.getincrementaldecoder("utf-8-sig" if is_utf8 else encoding)()
    line = 0
    first = True
    for chunk in chain([head], chunks):
        if first and chunk.startswith(_UTF16_BOMS) and not encoding.lower().startswith(_UTF_WIDE):
            raise InputError(
                "the file is UTF-16",
                'have it written as UTF-8, or set encoding = "utf-16"',
                file=path.name,
            )
        first = False
        try:
            text = decoder.decode(chunk)
            encoded = text.encode()
        except UnicodeError as error:
            start = error.start if isinstance(error, UnicodeDecodeError) else 0
            ends = line + chunk[:start].count(b"\n")
            raise InputError(
                f"bytes that are not {encoding}",
                'set the encoding of the feed (often "windows-1252"), or have it written as UTF-8',
                file=path.name,
                line=ends + 1,
            ) from None
        line += text.count("\n")
        yield encoded
    try:
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError:
        raise InputError(
            f"the file ends in the middle of a character of {encoding}",
            "ask the sender for the whole file",
            file=path.name,
        ) from None


def head_of(chunks: Iterator[bytes]) -> tuple[bytes, Iterator[bytes]]:
    """Return the bytes of the first row and more, and all chunks again from the start."""
    held = []
    size = 0
    for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        if size > ROW_BYTES_MAX:
            break
    return b"".join(held)[: ROW_BYTES_MAX * 2], chain(held, chunks)


def chain(held: list[bytes], chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the chunks that were held back, then the others."""
    yield from held
    yield from chunks
