"""Recognise files of other kinds by their first bytes, and say what to do about them. Pure."""

import json
import re
from typing import Final

# Packets of OpenPGP (RFC 9580, section 4): a session key for a public key (tags 1, versions 3 and 6) or for a
# passphrase (tag 3), in old and new format; compressed data in the old format.
_PGP: Final = re.compile(
    rb"\x84.[\x03\x06]|\x85[\x00-\x08].[\x03\x06]|\xc1(?:[\x00-\xbf]|[\xc0-\xdf].)[\x03\x06]"
    rb"|[\x8c\xc3].[\x04-\x06][\x01-\x0b]|\xa3[\x00-\x03]|-----BEGIN PGP ",
    re.DOTALL,
)
_BYTES: Final = (
    (
        _PGP,
        "the file is encrypted with PGP",
        "decrypt it first (gpg --decrypt), and give the path of the text in it",
    ),
    (
        re.compile(rb"\xd0\xcf\x11\xe0"),
        "the file is an old Excel workbook (.xls)",
        "save it as .xlsx or CSV",
    ),
)
_MARKUP: Final = (
    (
        re.compile(r"<!doctype html|<html|<table|<meta|<head|<body", re.IGNORECASE),
        "the file is a web page (HTML), whatever its name says",
        "have the table exported as CSV; if it was downloaded, the page may be an error or a login",
    ),
    (
        re.compile(r"<\?xml|<[A-Za-z][\w:.-]*[\s/>]"),
        "the file is XML",
        "have the table exported as CSV or Parquet",
    ),
)
_COLUMNS_FIXED: Final = re.compile(r"\S+(?: \S+)*(?: {2,}\S+(?: \S+)*)+ *")
_FIXED_MIN: Final = 2  # lines that must look so

Kind = tuple[str, str]  # what the file is, and what to do


def foreign_bytes(head: bytes) -> Kind | None:
    """Return what a file is by its first bytes, if they cannot be those of a table."""
    for pattern, message, fix in _BYTES:
        if pattern.match(head):
            return message, fix
    return None


def foreign_text(text: str) -> Kind | None:
    """Return what a text is, if it looks like no table. To be asked if mapped columns are missing in its first line."""
    text = text.lstrip("\ufeff \t\r\n")
    for pattern, message, fix in _MARKUP:
        if pattern.match(text):
            return message, fix
    return _json(text) or _fixed(text)


def _json(text: str) -> Kind | None:
    fix = "have it exported as CSV or Parquet"
    lines = text.splitlines()
    if len(lines) > 1 and all(_is_json(line, dict) for line in lines[:2]):
        return "the file is NDJSON: one JSON object on each line", fix
    if re.match(r'\{\s*("|\})|\[\s*[\[{]', text) or _is_json(text, list):
        return "the file is JSON", fix
    return None


def _is_json(text: str, kind: type) -> bool:
    try:
        return isinstance(json.loads(text), kind)
    except (ValueError, RecursionError):
        return False


def _fixed(text: str) -> Kind | None:
    """Recognise columns that blanks align: no delimiter in the first line, and several gaps in all lines."""
    lines = [line for line in text.splitlines()[:5] if line.strip()]
    if len(lines) < _FIXED_MIN or any(sign in lines[0] for sign in ",\t|;"):
        return None
    if all(_COLUMNS_FIXED.fullmatch(line.rstrip()) for line in lines[:_FIXED_MIN]):
        return (
            "the columns have fixed widths, and no delimiter is between them",
            "have it exported with a delimiter, as CSV or TSV",
        )
    return None
