"""The bounds of the input, in one place.

No real file comes near them. They keep memory and time finite for any content, and a refusal names the
bound and its value (docs/guarantees.md, "Input").
"""

from typing import Final

KIB: Final = 1024

FIELD_BYTES_MAX: Final = 64 * KIB  # one cell; Canvas stores 255 characters at most
ROW_BYTES_MAX: Final = 256 * KIB
COLUMNS_MAX: Final = 512
ROWS_MAX: Final = 100_000_000  # of one file; rows are numbered in 32 bits
FILES_MAX: Final = 1_000  # of one feed
# Of .gz and .zst: text packs ten to one, the most regular a hundred to one. A bomb packs more.
UNPACKED_RATIO_MAX: Final = 1_000
UNPACKED_BYTES_FREE: Final = 64 * KIB * KIB  # unpacked at any ratio
WORKBOOK_BYTES_MAX: Final = 2 * KIB * KIB * KIB  # unpacked; a million rows of 12 cells are 600 MB
# For the process that decodes a Parquet file: a million rows take about a second and 400 MB. Or a workbook: 100,000
# rows of 12 cells take about six seconds and 330 MB.
DECODING_BYTES_MAX: Final = 4 * KIB * KIB * KIB
DECODING_S_MAX: Final = 600
