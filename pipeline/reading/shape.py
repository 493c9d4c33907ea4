"""The shape of delimited text: quotes, line ends and the number of cells in every row. Pure.

Misfit lines are held until more is known: at the end of the text they are a footer or blank lines, and in
the middle the first of them is a damaged row.

Bytes come in blocks, at most one row is in memory, and counting has the speed of `bytes.split`: quotes
cut a block into pieces that alternate between outside and inside of quoted cells, and line ends and
delimiters count only outside (RFC 4180).
"""

from typing import Final, NoReturn

from pipeline.reading.bounds import ROW_BYTES_MAX, ROWS_MAX

_MISFITS_MAX: Final = 30  # lines that may be a footer
_BLANK: Final = {b"", b"\r"}
_SKIP_BLANK: Final = 'set blank_lines = "skip" if such lines mean nothing, or have them removed'


class Misshapen(ValueError):
    """The text breaks a rule of its format.

    Attributes:
        row: 0 is the header, 1 the first row of data.
        message: What is wrong.
        fix: What to do.
        may_be_protected: Whether it is a quote that may belong to a cell such as `="00123"`.
    """

    def __init__(self, row: int, message: str, fix: str, *, may_be_protected: bool = False) -> None:
        super().__init__(message)
        self.row = row
        self.message = message
        self.fix = fix
        self.may_be_protected = may_be_protected


class Shape:
    """The checker of a text. Feed it all bytes, then call `finish`. Raises Misshapen at the first wrong row.

    Args:
        columns: The number of cells of every row.
        delimiter: One byte.
        header_columns: The number of cells of the header, if rows have more.
        skip_footer: The number of lines that were left out at the end, for the message about a footer.

    Afterwards `rows` is the number of data rows. `whole` is the last place where the text can be cut: the
    number of bytes before it, and of the rows of data in them.
    """

    def __init__(
        self, columns: int, delimiter: bytes, header_columns: int = 0, skip_footer: int = 0
    ) -> None:
        self._cuts = columns - 1
        self._header_cuts = (header_columns or columns) - 1
        self._skip_footer = skip_footer
        self._misfits: list[tuple[int, bytes]] = []  # row and text, since the last line that fits
        self._breaks = 0  # line ends inside of quotes
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

    @property
    def breaks(self) -> int:
        """Return the number of line ends inside of quotes."""
        return self._breaks

    @property
    def lines(self) -> int:
        """Return the number of lines seen so far, as an editor counts them."""
        return self._lines + self._breaks

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
        is_torn = bool(tail) and not torn_allowed
        if is_torn and not self._inside:
            self.refuse_torn()
        if tail:
            self._block(tail + b"\n")
            self._bytes += len(tail)
        if self._inside:
            self._fail(
                self._lines, "a quote is opened in this row and never closed", "close the quote"
            )
        if is_torn:  # the last row began in an earlier line
            self._lines -= 1
            self.refuse_torn()
        if self._misfits:
            self._refuse_end()
        self.whole = self._bytes, self.rows

    def refuse_torn(self) -> NoReturn:
        """Raise Misshapen for a last line without a line end."""
        self._fail(
            self._lines,
            "the last line has no line end: the file may be cut short",
            'ask the sender for the whole file, or set final_newline = "any" if it always ends so',
        )

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
        if self._misfits and self._lines - self._misfits[0][0] != len(self._misfits):
            self._refuse_misfit()

    def _unquoted(self, block: bytes) -> bytes:
        """Return the bytes of a block that are outside of quotes, with a quote in place of each text in quotes.

        So a line of one quoted cell is not blank. Raises Misshapen for a misplaced quote.
        """
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
        joined = b'"' * first + b'"'.join(outside)
        self._breaks += block.count(b"\n") - joined.count(b"\n")
        return joined

    def _check_line(self, line: bytes) -> None:
        if b"\r" in line.removesuffix(b"\r"):
            self._fail(
                self._lines,
                "a carriage return (CR) that is not followed by a line feed",
                "have it written with LF or CRLF line ends",
            )
        cuts = self._header_cuts if self._lines == 0 else self._cuts
        if line.count(self._delimiter) != cuts:
            self._misfits.append((self._lines, line))
            if len(self._misfits) > _MISFITS_MAX:
                self._refuse_misfit()

    def _refuse_misfit(self) -> NoReturn:
        """Raise Misshapen for the first line that does not fit, in the middle of the rows."""
        row, line = self._misfits[0]
        self._misfits = []
        if line in _BLANK:
            self._fail(row, "the line is blank", _SKIP_BLANK)
        self._fail(
            row,
            self._cells(line),
            "fix or remove the row; a cell that holds the delimiter must be quoted",
        )

    def _refuse_end(self) -> NoReturn:
        """Raise Misshapen for lines after the last row that do not fit."""
        row, line = self._misfits[0]
        if all(line in _BLANK for _, line in self._misfits):
            self._refuse_misfit()
        count = len(self._misfits) + self._skip_footer
        is_long = any(line.count(self._delimiter) > self._cuts for _, line in self._misfits)
        if is_long or row <= 1:
            self._refuse_misfit()
        self._misfits = []
        self._fail(
            row,
            f"{self._cells(line)}, and no row follows",
            f"if this is a footer, such as a total: set skip_footer = {count}; else ask the sender for the whole file",
        )

    def _cells(self, line: bytes) -> str:
        wide = f"row 1 has {self._cuts + 1}" if self._cuts != self._header_cuts else ""
        cells = line.count(self._delimiter) + 1
        what = "1 cell" if cells == 1 else f"{cells} cells"
        return f"{what} where {wide or f'the header has {self._cuts + 1}'}"

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
            'have whole cells quoted and the quotes in them doubled (""), as a CSV export does; PostgreSQL: (format csv, header)',
            may_be_protected=any(piece.endswith(b"=") for piece in pieces),
        )

    def _fail(
        self, line: int, message: str, fix: str, *, may_be_protected: bool = False
    ) -> NoReturn:
        if self._misfits and self._misfits[0][0] < line and not may_be_protected:
            self._refuse_misfit()
        raise Misshapen(line, message, fix, may_be_protected=may_be_protected)
