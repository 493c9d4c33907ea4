"""Checksums of the pages of a Parquet file, and columns of INT96: what its decoder does not show. Pure.

Programs of the Hadoop family (Spark, Hive, Trino) write a CRC-32 for each page, most others none. This
module reads only the part of the format that is needed to find them: Thrift's compact protocol, and the
few fields of parquet.thrift that locate a page. It judges nothing else: a file that it does not
understand is left to the decoder.

INT96 is an old kind of time without a zone. Spark writes it by default, in UTC; others write local times.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Any, Final

_MAGIC_BYTES: Final = 4
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_DEPTH_MAX: Final = 20
_BITS_MAX: Final = 63
_NAME_BYTES_MAX: Final = 1_024  # longer ones are not the name of a column

Fields = dict[int, Any]


def has_wrong_checksum(data: Any) -> bool:
    """Return whether a page differs from its checksum. `data` is the whole file, as bytes or mapped memory."""
    try:
        first, _ = _struct(data, _MAGIC_BYTES)
        if _CRC not in first:
            return False
        return any(_differs(data, *chunk) for chunk in _chunks(data))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, struct.error):
        return False


def int96_columns(data: Any) -> list[str]:
    """Return the names of the columns whose values are INT96. `data` is the whole file."""
    try:
        elements = _footer(data)[_SCHEMA]
        return [each[_NAME].decode() for each in elements if each.get(_TYPE) == _INT96]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, struct.error):
        return []


# Ids of fields, parquet.thrift.
_SCHEMA, _TYPE, _NAME, _INT96 = 2, 1, 4, 3
_ROW_GROUPS, _COLUMNS, _META_DATA = 4, 1, 3
_COMPRESSED_SIZE, _DATA_PAGE, _DICTIONARY_PAGE = 7, 9, 11
_PAGE_SIZE, _CRC = 3, 4


def _chunks(data: Any) -> Iterator[tuple[int, int]]:
    """Yield begin and end of each column of each row group."""
    for group in _footer(data)[_ROW_GROUPS]:
        for column in group[_COLUMNS]:
            meta = column[_META_DATA]
            begin = meta.get(_DICTIONARY_PAGE) or meta[_DATA_PAGE]
            yield begin, begin + meta[_COMPRESSED_SIZE]


def _footer(data: Any) -> Fields:
    (length,) = struct.unpack("<I", data[-8:-4])
    return _struct(data, len(data) - 8 - length)[0]


def _differs(data: Any, at: int, end: int) -> bool:
    while at < end:
        header, at = _struct(data, at)
        size = header[_PAGE_SIZE]
        if size < 0:
            raise ValueError("a page of negative size")
        page, at = data[at : at + size], at + size
        if _CRC in header and zlib.crc32(page) != header[_CRC] & 0xFFFFFFFF:
            return True
    return False


# Thrift's compact protocol ------------------------------------------------------------------------


def _struct(data: Any, at: int, depth: int = 0) -> tuple[Fields, int]:
    """Return a structure's fields by id, and its end."""
    if depth > _DEPTH_MAX:
        raise ValueError("nested too deep")
    fields: Fields = {}
    number = 0
    while head := data[at]:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _signed(data, at)
        kind = head & 15
        if kind in {_TRUE, _FALSE}:
            fields[number] = kind == _TRUE
        else:
            fields[number], at = _value(data, at, kind, depth)
    return fields, at + 1


def _value(data: Any, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in {_I16, _I32, _I64}:
        return _signed(data, at)
    if kind in {_TRUE, _FALSE, _BYTE}:
        return data[at], at + 1
    if kind == _DOUBLE:
        return data[at], at + 8
    if kind == _BINARY:
        length, at = _unsigned(data, at)
        return bytes(data[at : at + length]) if length <= _NAME_BYTES_MAX else None, at + length
    if kind in {_LIST, _SET}:
        return _list(data, at, depth)
    if kind == _STRUCT:
        return _struct(data, at, depth + 1)
    raise ValueError("a map, or no kind: parquet.thrift has none")


def _list(data: Any, at: int, depth: int) -> tuple[list[Any], int]:
    head, at = data[at], at + 1
    size = head >> 4
    if size == 15:  # noqa: PLR2004 - then the size follows
        size, at = _unsigned(data, at)
    values = []
    for _ in range(size):
        value, at = _value(data, at, head & 15, depth)
        values.append(value)
    return values, at


def _unsigned(data: Any, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte, at = data[at], at + 1
        value |= (byte & 127) << shift
        if byte < 128:  # noqa: PLR2004 - the last one
            return value, at
        shift += 7
        if shift > _BITS_MAX:
            raise ValueError("a number of more than 64 bits")


def _signed(data: Any, at: int) -> tuple[int, int]:
    value, at = _unsigned(data, at)
    return (value >> 1) ^ -(value & 1), at
