import csv
import io
import json
import math
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from rich.text import Text

from facewire.plain import plain
from facewire_cli.output import TABLE_ROWS, Form, Row, cell, moment, to_json, visible, write_rows

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.text(st.characters(categories=["Cs", "Cc", "Cf"]))
    | st.binary()
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=4))
    | st.builds(msgpack.Timestamp, st.integers(0, 2**33), st.integers(0, 999_999_999)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.binary() | st.none() | st.floats(), inner),
    max_leaves=20,
)
DANGEROUS = [*range(0x20), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A)]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def written(rows: list[Row], form: Form, columns: list[str], **more: Any) -> str:
    out = io.StringIO()
    write_rows(rows, form, columns, out=out, **more)
    return out.getvalue()


@pytest.mark.parametrize("code", DANGEROUS)
def test_terminal_control_characters_are_made_visible(code: int) -> None:
    shown = visible(f"a{chr(code)}b")
    assert shown == (f"a\\x{code:02x}b" if code < 0x100 else f"a\\u{code:04x}b")


def test_visible_shows_an_escape_sequence_and_leaves_names_alone() -> None:
    assert visible("\x1b[31mred\x1b[0m") == r"\x1b[31mred\x1b[0m"
    assert visible("小明 Zoë 👩\u200d🚀 a\u200cb") == "小明 Zoë 👩\u200d🚀 a\u200cb"
    assert visible("\ud800") == r"\ud800"


def test_plain_turns_each_foreign_type_into_what_json_has() -> None:
    assert plain({b"\xff": 1, 2: b"abc", None: math.nan, "t": (1, math.inf), True: "\udcff"}) == {
        "/w==": 1,
        "2": "YWJj",
        "null": None,
        "t": [1, None],
        "true": "\\udcff",
    }
    assert plain(msgpack.ExtType(5, b"x")) == "ExtType(code=5, data=b'x')"
    assert plain(msgpack.Timestamp(1, 2)) == "Timestamp(seconds=1, nanoseconds=2)"


@given(ANYTHING)
def test_json_of_anything_is_one_safe_line_that_means_the_same(value: Any) -> None:
    line = to_json(value)
    assert visible(line) == line
    line.encode()
    assert json.loads(line) == plain(value)
    assert plain(plain(value)) == plain(value)


def test_json_escapes_what_drives_a_terminal_and_keeps_the_rest() -> None:
    text = "小明" + "".join(map(chr, DANGEROUS))
    line = to_json({"name": text})
    assert line.startswith('{"name": "小明\\u0000')
    assert json.loads(line) == {"name": text}
    assert all(chr(code) not in line for code in DANGEROUS)


def test_json_writes_every_key_one_row_a_line() -> None:
    assert written([{"a": 1, "b": "x\ny"}, {"a": 2}], "json", ["a"]) == '{"a": 1, "b": "x\\ny"}\n{"a": 2}\n'


def test_csv_writes_its_columns_and_leaves_out_the_rest() -> None:
    text = written([{"a": 'x,"y"', "b": None, "c": {"k": [1]}, "z": 0}, {"b": b"abc", "c": 1.5}], "csv", ["a", "b", "c"])
    assert list(csv.reader(io.StringIO(text))) == [["a", "b", "c"], ['x,"y"', "", '{"k": [1]}'], ["", "YWJj", "1.5"]]


def test_csv_on_a_terminal_shows_escape_sequences() -> None:
    out = Terminal()
    write_rows([{"a": "\x1b[2J"}], "csv", ["a"], out=out)
    assert out.getvalue() == "a\n\\x1b[2J\n"


@pytest.mark.parametrize("form", ["json", "csv", "pretty"])
def test_rows_are_written_as_they_arrive(form: Form) -> None:
    out = io.StringIO()
    seen: list[str] = []

    def rows() -> Iterator[Row]:
        for number in range(3):
            yield {"a": f"row{number}"}
            seen.append(out.getvalue())

    write_rows(rows(), form, ["a"], out=out, follow=True)
    assert [f"row{number}" in text for number, text in enumerate(seen)] == [True, True, True]


CELLS = st.none() | st.integers() | st.floats(allow_nan=False) | st.text("ab  Zoë小明é\t\n\x1b[]🙂-_", max_size=12)


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=6), st.integers(0, 1_000))
def test_a_table_that_fits_is_laid_out_as_rich_would(rows: list[tuple[Any, ...]], number: int) -> None:
    columns = ["name", "number", "any"]
    made: list[Row] = [{"name": visible(str(name)), "number": number, "any": some} for name, _, some in rows]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    numeric = {type(row["any"]) for row in made} & {int, float} and all(isinstance(row["any"], int | float | None) for row in made)
    for name in columns:
        right = bool(made) and (name == "number" or (name == "any" and bool(numeric)))
        table.add_column(Text(name), justify="right" if right else "left")
    for row in made:
        table.add_row(*(Text(visible(cell(row[name]))) for name in columns))
    console = Console(file=io.StringIO(), width=1_000)
    with console.capture() as capture:
        console.print(table)
    assert written(made, "pretty", columns) == "".join(line.rstrip() + "\n" for line in capture.get().split("\n")[:-1])


def test_a_table_holds_only_one_group_of_rows() -> None:
    out = io.StringIO()
    most = 0

    def rows() -> Iterator[Row]:
        nonlocal most
        for number in range(5 * TABLE_ROWS):
            most = max(most, number - out.getvalue().count("\n"))
            yield {"a": number}

    write_rows(rows(), "pretty", ["a"], out=out)
    assert most <= TABLE_ROWS
    assert out.getvalue().count("\n") == 5 * TABLE_ROWS + 1


def test_a_table_is_aligned_by_what_a_terminal_shows() -> None:
    rows: list[Row] = [{"name": "小明", "seq": 7, "x": "a"}, {"name": "Zoë", "seq": 100, "x": "b"}]
    assert written(rows, "pretty", ["name", "seq", "x"]) == "name  seq  x\n小明    7  a\nZoë   100  b\n"


def test_a_table_stays_aligned_past_its_first_group() -> None:
    rows: list[Row] = [{"a": "x" * 50, "b": 1}, *[{"a": "y", "b": 1}] * TABLE_ROWS]
    lines = written(rows, "pretty", ["a", "b"]).splitlines()
    assert lines[1].index("1") == lines[-1].index("1")


def test_a_table_shows_markup_and_escape_sequences_as_text() -> None:
    assert (
        written([{"a": "[red]x[/red] \x1b[31m :smile:", "b": None}], "pretty", ["a", "b"]).splitlines()[1]
        == r"[red]x[/red] \x1b[31m :smile:"
    )


def test_a_terminal_narrower_than_the_table_gets_a_line_for_each_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    out = Terminal()
    rows: list[Row] = [{"name": "小明", "n": 1, "nothing": None}, {"name": "y" * 50, "n": -2}]
    write_rows(rows, "pretty", ["name", "n", "nothing"], out=out)
    assert out.getvalue() == f"name     小明\nn        1\nnothing\n\nname     {'y' * 50}\nn        -2\nnothing\n\n"


def test_rows_get_a_line_for_each_value_once_they_are_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    out = Terminal()
    write_rows([{"a": 1}, {"a": "x" * 30}, {"a": 2}], "pretty", ["a"], out=out, follow=True)
    assert out.getvalue().splitlines()[1:] == ["1", "a  " + "x" * 30, "", "a  2", ""]


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch, no_color: str, coloured: bool) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", no_color)
    out = Terminal()
    write_rows([{"a": 1}], "pretty", ["a"], out=out)
    assert ("\x1b[" in out.getvalue()) is coloured


def test_a_table_formats_a_column_as_asked() -> None:
    text = written([{"at": 0}, {"at": None}], "pretty", ["at"], shown={"at": lambda value: f"t{value}\n"})
    assert text == "at\nt0\\x0a\n\n"


def test_without_rows_a_table_and_csv_have_a_header() -> None:
    assert (written([], "pretty", ["a"]), written([], "csv", ["a"]), written([], "json", ["a"])) == ("a\n", "a\n", "")


def test_without_rich_a_table_is_still_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rich.cells", None)
    assert written([{"a": "小明", "c": 2}], "pretty", ["a", "b", "c"]) == "a  b  c\n小明  -  2\n"


def test_moment_shows_any_clock() -> None:
    assert moment(1_764_000_000_123).endswith(":00.123")
    assert moment(2**62) == f"{2**62} ms"
    assert cell(None) == ""
