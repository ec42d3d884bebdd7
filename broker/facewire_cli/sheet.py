"""Cells of CSV, which spreadsheets open. Pure.

A spreadsheet runs a cell that begins like a formula, and a face box passes on whatever somebody
typed as a name (https://owasp.org/www-community/attacks/CSV_Injection). Where `;` separates
columns, the same holds behind each `;` of a line.

Excel also reads texts as numbers and dates: 007 becomes 7, 1-2 a day, and the epoch
00000000000000e1 zero. A cell ="007" stays a text.
"""

import re
from typing import Final

#: Excel reads a file without it in the code page of the machine.
BYTE_ORDER_MARK: Final = "\ufeff"
#: Excel takes no longer text in a formula.
MAX_FORMULA_TEXT: Final = 255

_TRIGGERS: Final = "=+\\-@\uff1d\uff0b\uff0d\uff20"  # and their full-width forms
_FORMULA: Final = re.compile(rf"\s*[{_TRIGGERS}]")
_FORMULA_BEHIND: Final = re.compile(rf";(?=\s*[{_TRIGGERS}])")
#: Most texts: `harmless` and `visible` change nothing in them.
EASY: Final = re.compile("[A-Za-z0-9_][A-Za-z0-9_ .:+-]*")
#: Beside the separator, the quote and line ends: where other spreadsheets separate.
_QUOTED: Final = re.compile('[",;\r\n]')


def harmless(text: str) -> str:
    """The text with a `'` before each place at which a spreadsheet would see a formula."""
    text = _FORMULA_BEHIND.sub(";'", text)
    return f"'{text}" if _FORMULA.match(text) else text


def for_excel(text: str) -> str:
    """The text as a cell that Excel shows as it is: `="007"` if it would change it."""
    inner = _FORMULA_BEHIND.sub(";'", text).replace('"', '""')
    if len(inner) > MAX_FORMULA_TEXT or not (_FORMULA.match(text) or any(letter.isdigit() for letter in text)):
        return harmless(text)
    return f'="{inner}"'


def line(cells: list[str]) -> str:
    """A line of CSV (RFC 4180) with its end."""
    return ",".join(map(_quoted, cells)) + "\n" if cells != [""] else '""\n'


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text
