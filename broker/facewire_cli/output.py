r"""Writes rows to a terminal, to a pipe, to a spreadsheet.

A name holds whatever somebody typed at a face box. Characters that move a cursor, change a terminal
or reverse a line are never written raw: people and spreadsheets see them spelt out, JSON has them
as `\u` escapes.
"""

import datetime as dt
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TextIO, TypeAlias

from facewire.finding import Finding
from facewire.plain import plain
from facewire_cli import sheet

#: `excel` is CSV that Excel shows as it is (`sheet`).
Form: TypeAlias = Literal["pretty", "json", "csv", "excel"]
Row: TypeAlias = Mapping[str, Any]

#: Rows that are aligned together in a table; we never hold more of a result.
TABLE_ROWS: Final = 200

#: Wide enough for any row, if there is no terminal with a width.
_ANY_WIDTH: Final = 4096

#: C0, DEL and C1 drive terminals; the others change the reading direction, or break a line.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False).encode


def visible(text: str) -> str:
    r"""Spell out characters that drive a terminal: ESC becomes `\x1b`. The result is one line."""
    return text if text.isascii() and text.isprintable() else _UNSAFE.sub(_show, text)


def to_json(value: object) -> str:
    """Write a value as one line of JSON; only characters that drive a terminal are escaped."""
    try:
        text = _to_json(value)
    except (TypeError, ValueError):
        text = _to_json(plain(value))
    return text if text.isascii() and "\x7f" not in text else _UNSAFE.sub(_escape, text)


def moment(at_ms: int) -> str:
    """Show a moment in local time."""
    try:
        # By timedelta: `fromtimestamp` refuses years that a bad clock may well report.
        at = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=at_ms)
        return at.astimezone().strftime("%Y-%m-%d %H:%M:%S.") + f"{at_ms % 1000:03d}"
    except (OverflowError, ValueError, OSError):
        return f"{at_ms} ms"


def write_rows(
    rows: Iterable[Row],
    form: Form,
    columns: Sequence[str],
    *,
    out: TextIO | None = None,
    follow: bool = False,
    shown: Mapping[str, Callable[[Any], str]] | None = None,
) -> None:
    """Write rows as they arrive; hold at most `TABLE_ROWS` of them.

    Args:
        rows: anything that `plain` takes.
        form: json writes every key of a row, the others `columns` only.
        columns: in this order; a row may lack some.
        out: standard output by default.
        follow: write each row at once, because somebody is watching.
        shown: how a table shows the values of a column, such as a timestamp (`moment`).
    """
    out = standard_output() if out is None else out
    match form:
        case "json":
            _write_json(rows, out, follow=follow)
        case "csv" | "excel":
            _write_csv(rows, columns, out, sheet.for_excel if form == "excel" else sheet.harmless, follow=follow)
        case "pretty":
            for text in _tables(rows, columns, out, 1 if follow else TABLE_ROWS, shown or {}):
                out.write(text)
                out.flush()
    out.flush()  # if the disk is full, our caller hears of it now


def standard_output() -> TextIO:
    """Standard output; in UTF-8 unless it is a terminal, because the next program expects it."""
    out = sys.stdout
    if hasattr(out, "reconfigure"):
        if out.isatty():
            out.reconfigure(errors="backslashreplace")
        else:
            out.reconfigure(encoding="utf-8", errors="strict")
    return out


def cell(value: object) -> str:
    """A value as the text of one cell."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case str():
            text: str = plain(value)
            return text
    return to_json(value).strip('"')


def _write_json(rows: Iterable[Row], out: TextIO, *, follow: bool) -> None:
    for row in rows:
        out.write(to_json(row) + "\n")
        if follow:
            out.flush()
    out.flush()


def _write_csv(rows: Iterable[Row], columns: Sequence[str], out: TextIO, text: Callable[[str], str], *, follow: bool) -> None:
    out.write((sheet.BYTE_ORDER_MARK if text is sheet.for_excel else "") + sheet.line(list(columns)))
    for row in rows:
        out.write(sheet.line([_csv_cell(row.get(name), text) for name in columns]))
        if follow:
            out.flush()


def _csv_cell(value: object, text: Callable[[str], str]) -> str:
    if type(value) is str:
        easy = text is sheet.harmless and sheet.EASY.fullmatch(value)
        return value if easy else text(visible(plain(value)))
    # A number needs no mending, and a negative one must stay a number.
    return cell(value) if isinstance(value, int | float) else text(visible(cell(value)))


def _tables(
    rows: Iterable[Row], columns: Sequence[str], out: TextIO, size: int, shown: Mapping[str, Callable[[Any], str]]
) -> Iterator[str]:
    """Lay out the rows in groups of `size`; each is at least as wide as the one before.

    From the first group that is wider than the terminal on, each value gets a line of its own.
    """
    try:
        from rich.cells import cell_len
        from rich.console import Console
    except ModuleNotFoundError:
        yield from _unaligned(rows, columns, shown)
        return
    console = Console(file=out, highlight=False, width=None if out.isatty() else _ANY_WIDTH)
    bold = console.color_system is not None and not console.no_color
    widths = [cell_len(name) for name in columns]
    rows = iter(rows)
    for stretch in itertools.count():
        held = list(itertools.islice(rows, size))
        if not held and stretch:
            return
        lines = [[_shown(row.get(name), shown.get(name)) for name in columns] for row in held]
        widths = [max(width, *map(cell_len, cells), 0) for width, *cells in zip(widths, *lines, strict=True)]
        if sum(widths) + 2 * len(widths) > console.width and (held or stretch):
            yield "".join(_record(columns, line) for line in lines)
            continue
        numeric = [name not in shown and _is_numeric(row.get(name) for row in held) for name in columns]
        if not stretch:
            header = _aligned(columns, map(cell_len, columns), widths, numeric)
            yield f"\x1b[1m{header[:-1]}\x1b[0m\n" if bold else header
        # rich would lay these out alike, in thirty times the time.
        yield "".join(_aligned(line, map(cell_len, line), widths, numeric) for line in lines)


def _record(columns: Sequence[str], line: Sequence[str]) -> str:
    """A row with a line for each value, and an empty line after it."""
    width = max(map(len, columns))
    return "".join(f"{name:<{width}}  {text}".rstrip() + "\n" for name, text in zip(columns, line, strict=True)) + "\n"


def _aligned(cells: Iterable[str], sizes: Iterable[int], widths: Iterable[int], numeric: Iterable[bool]) -> str:
    padded = zip(cells, sizes, widths, numeric, strict=True)
    texts = (" " * (width - size) + text if number else text + " " * (width - size) for text, size, width, number in padded)
    return "  ".join(texts).rstrip() + "\n"


def _is_numeric(values: Iterable[object]) -> bool:
    types = {type(value) for value in values}
    return bool(types & {int, float}) and types <= {int, float, type(None)}


def _unaligned(rows: Iterable[Row], columns: Sequence[str], shown: Mapping[str, Callable[[Any], str]]) -> Iterator[str]:
    """A plain table, for a device without rich."""
    yield "  ".join(columns) + "\n"
    for row in rows:
        yield "  ".join(_shown(row.get(name), shown.get(name)) or "-" for name in columns) + "\n"


def _shown(value: Any, how: Callable[[Any], str] | None) -> str:
    return visible(how(value) if how and value is not None else cell(value))


def _show(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    # Strict readers refuse the escape of a lone surrogate: it becomes text, as in `plain`.
    return f"\\\\u{code:04x}" if 0xD800 <= code < 0xE000 else f"\\u{code:04x}"


def write_findings(findings: Iterable[Finding]) -> bool:
    """Write each finding for people as it is made; returns whether a check failed."""
    out, failed = standard_output(), False
    for finding in findings:
        failed = failed or finding.verdict == "FAIL"
        out.write(visible(f"{finding.verdict:<4}  {finding.check:<20}  {finding.message}") + "\n")
        if finding.remedy:
            out.write(visible(f"{'':<28}{finding.remedy}") + "\n")
        out.flush()
    return failed
