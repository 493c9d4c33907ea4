"""The shape of delimited text: quotes, line ends and the number of cells in every row. Pure.

Bytes come in blocks, at most one row is in memory, and counting has the speed of `bytes.split`: quotes
cut a block into pieces that alternate between outside and inside of quoted cells, and line ends and
delimiters count only outside (RFC 4180).
"""

from typing import NoReturn

from pipeline.reading.bounds import ROW_BYTES_MAX, ROWS_MAX


class Misshapen(ValueError):
    """The text breaks a rule of its format. `row` 0 is the header, 1 the first row of data."""

    def __init__(self, row: int, message: str, fix: str) -> None:
        super().__init__(message)
        self.row = row
        self.message = message
        self.fix = fix


class Shape:
    """The checker of a text. Feed it all bytes, then call `finish`. Raises Misshapen at the first wrong row.

    `columns` is the number of cells of every row, `delimiter` one byte. Afterwards `rows` is the number of
    data rows. `whole` is the last place where the text can be cut: the number of bytes before it, and of
    the rows of data in them.
    """

    def __init__(self, columns: int, delimiter: bytes) -> None:
        self._cuts = columns - 1
        self._delimiter = delimiter
        self._before_open = (b"", delimiter, b"\n")  # allowed before an opening quote
        self._after_close = (b"", delimiter, b"\n", b"\r")  # ... and after a closing one
        self._inside = False
        self._carry = b""  # bytes since the last line end
        self._outside = b""  # the part outside of quotes of a row that is not at its end
        self._lines = 0  # line ends outside of quotes, the header's included
        self._bytes = 0  # of whole lines
        self.whole = (0, 0)

    @property
    def rows(self) -> int:
        """Return the number of rows of data seen so far."""
        return max(self._lines - 1, 0)

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        data = self._carry + data
        end = data.rfind(b"\n") + 1
        self._carry = data[end:]
        if len(self._carry) > ROW_BYTES_MAX:
            self._refuse_long_row()
        if end:
            self._block(data[:end])
            self._bytes += end
            if not self._inside:
                self.whole = self._bytes, self.rows

    def finish(self, *, torn_allowed: bool) -> None:
        """Check the end, after all bytes. A last line without a line end may be torn off."""
        tail, self._carry = self._carry, b""
        if tail and not self._inside and not torn_allowed:
            self._fail(
                self._lines,
                "the last line has no line end: the file may be cut short",
                'ask the sender for the whole file, or set final_newline = "any" if it always ends so',
            )
        if tail:
            self._block(tail + b"\n")
            self._bytes += len(tail)
        if self._inside:
            self._fail(
                self._lines, "a quote is opened in this row and never closed", "close the quote"
            )
        self.whole = self._bytes, self.rows

    def _block(self, block: bytes) -> None:
        """Take whole lines. The last line end may be inside of quotes."""
        if b"\0" in block:
            self._fail(
                self._lines + block[: block.index(b"\0")].count(b"\n"),
                "a NUL byte: this is no text, or UTF-16",
                'have it written as UTF-8, or set encoding = "utf-16"',
            )
        outside = self._outside + (
            self._unquoted(block) if self._inside or b'"' in block else block
        )
        lines = outside.split(b"\n")
        self._outside = lines.pop()
        if len(self._outside) > ROW_BYTES_MAX:
            self._refuse_long_row()
        if self._lines + len(lines) > ROWS_MAX + 1:
            self._fail(
                ROWS_MAX + 1, f"more than {ROWS_MAX:,} rows", "have it split into several files"
            )
        for line in lines:
            if line.count(self._delimiter) != self._cuts or b"\r" in line:
                self._check_line(line)
            self._lines += 1

    def _unquoted(self, block: bytes) -> bytes:
        """Return the bytes of a block that are outside of quotes. Raises Misshapen for a misplaced quote."""
        pieces = block.split(b'"')
        first = 1 if self._inside else 0
        outside = pieces[first::2]
        ends_inside = (len(pieces) - 1 + first) % 2 == 1
        opened = outside if ends_inside else outside[:-1]  # pieces before an opening quote
        closed = outside if first else outside[1:]  # pieces after a closing quote
        if not {piece[-1:] for piece in opened} <= set(self._before_open) or not {
            piece[:1] for piece in closed
        } <= set(self._after_close):
            self._refuse_stray_quote(pieces, first)
        self._inside = ends_inside
        return b"".join(outside)

    def _check_line(self, line: bytes) -> None:
        if b"\r" in line.removesuffix(b"\r"):
            self._fail(
                self._lines,
                "a carriage return (CR) that is not followed by a line feed",
                "have it written with LF or CRLF line ends",
            )
        cells = line.count(self._delimiter) + 1
        if cells != self._cuts + 1:
            what = (
                "the line is blank"
                if line in {b"", b"\r"}
                else f"{cells} cells where the header has {self._cuts + 1}"
            )
            self._fail(
                self._lines,
                what,
                "fix or remove the row; a cell that holds the delimiter must be quoted",
            )

    def _refuse_long_row(self) -> NoReturn:
        self._fail(
            self._lines,
            f"a row of more than {ROW_BYTES_MAX // 1024} KiB, or a quote that is never closed",
            "check the quotes and line ends from this row on",
        )

    def _refuse_stray_quote(self, pieces: list[bytes], first: int) -> NoReturn:
        """Raise Misshapen for the row with a quote inside of an unquoted cell, or with text after a closing quote."""
        line = self._lines
        for number, piece in enumerate(pieces):
            if number % 2 != first:
                continue
            if number > 0 and piece[:1] not in self._after_close:
                break
            line += piece.count(b"\n")
            if number < len(pieces) - 1 and piece[-1:] not in self._before_open:
                break
        self._fail(
            line,
            "a quote in the middle of a cell",
            'quote the whole cell and double the quotes in it ("")',
        )

    def _fail(self, line: int, message: str, fix: str) -> NoReturn:
        raise Misshapen(line, message, fix)
