"""`facewire report person`, and reports over ranges of days."""

import base64
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from platform_model import batch, event
from platform_store import store_batches

from facewire.events import Event
from facewire_cli.main import cli
from facewire_platform.history.person import photographs
from facewire_platform.store.drivers import Location
from facewire_platform.store.writer import Message, Unreadable, open_store

DAY = 86_400_000
MONDAY = 1_764_028_800_000  # 2025-11-25 UTC
JPEG = b"\xff\xd8\xff\xe0" + bytes(80)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(80)


def seen(seq: int, who: str, name: str, *, days: float = 0, end: str | None = "door", **extra: Any) -> Event:
    return event(seq)._replace(timestamp=MONDAY + round(days * DAY), identity_id=who, identity_name=name, ep_id=end, extra=extra)


@pytest.fixture
def history(location: Location) -> Location:
    with open_store(location) as store:
        events = (
            seen(1, "7", "Ann", photo=JPEG, deep={"list": [{"png": base64.b64encode(PNG).decode()}]}),
            seen(2, "8", "Bo", days=0.2),
            seen(3, "7", "Ann B", days=1.5, end=None, note="hello"),
            seen(4, "9", "7", days=33),
        )
        store_batches(store, batch(0, 4, *events), device="lobby")
        for reason, raw in (("theirs", b'{"identity_id": "7"}'), ("another's", b'{"identity_id": "17"}')):
            store.store([Message("d", Unreadable("d/history", reason, raw), 1)])
    return location


def run(location: Location, *arguments: str) -> Result:
    url = location if isinstance(location, str) else f"sqlite:///{location}"
    return CliRunner().invoke(cli, ["report", *arguments, "--database", url], catch_exceptions=False)


def test_a_person_gets_everything_as_one_object(history: Location) -> None:
    person = json.loads(run(history, "person", "7", "--tz", "UTC").stdout)
    assert [row["seq"] for row in person["events"]] == [1, 3, 4]
    assert person["events"][0]["photo"] == base64.b64encode(JPEG).decode()
    assert person["events"][1]["note"] == "hello"
    assert (person["person"], person["count"]) == ("7", 3)
    assert (person["first_seen"], person["last_seen"]) == ("2025-11-25T00:00:00.000+00:00", "2025-12-28T00:00:00.000+00:00")
    assert person["identity_ids"] == {"7": 2, "9": 1}
    assert person["identity_names"] == {"Ann": 1, "Ann B": 1, "7": 1}
    assert person["days"] == {"2025-11-25": 1, "2025-11-26": 1, "2025-12-28": 1}
    assert [(place["device"], place["ep_id"], place["events"]) for place in person["places"]] == [("lobby", "door", 2), ("lobby", None, 1)]
    assert [entry["reason"] for entry in person["quarantine"]] == ["theirs"]


def test_a_zip_has_photographs_as_files(history: Location, tmp_path: Path) -> None:
    file = tmp_path / "seven.zip"
    assert run(history, "person", "7", "--to", str(file)).exit_code == 0
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        person = json.loads(archive.read("person.json"))
        rows = [json.loads(line) for line in archive.read("events.jsonl").splitlines()]
        assert archive.read("events.csv").decode().startswith("device,epoch,seq")
        assert [archive.read(name) for name in names if name.startswith("photographs/")] == [JPEG, PNG]
    assert [name.rpartition(".")[2] for name in names if name.startswith("photographs/")] == ["jpg", "png"]
    assert (person["person"], person["count"], [row["seq"] for row in rows]) == ("7", 3, [1, 3, 4])
    assert file.stat().st_mode & 0o007 == 0


def test_a_zip_may_go_to_a_pipe(history: Location) -> None:
    with zipfile.ZipFile(io.BytesIO(run(history, "person", "Bo", "-o", "zip").stdout_bytes)) as archive:
        assert json.loads(archive.read("person.json"))["count"] == 1


def test_an_unknown_person_has_no_events_and_the_command_says_so(history: Location) -> None:
    done = run(history, "person", "nobody")
    assert (json.loads(done.stdout)["events"], done.stderr) == ([], "nobody has this identity_id or identity_name\n")


@pytest.mark.parametrize("value", [b"", "", "short", "x" * 100, base64.b64encode(bytes(100)).decode(), 5, None, {"a": ["b"]}])
def test_a_value_that_is_no_photograph_becomes_no_file(value: object) -> None:
    assert [ending for raw, ending in photographs(value) if raw] == []


def test_attendance_of_a_month_has_a_row_for_each_person_and_day(history: Location) -> None:
    rows = [json.loads(line) for line in run(history, "attendance", "--month", "2025-11", "--tz", "UTC", "-o", "json").stdout.splitlines()]
    people = [(row["day"], row["identity_id"], row["passes"]) for row in rows if row["record"] == "attendance"]
    assert people == [("2025-11-25", "7", 1), ("2025-11-25", "8", 1), ("2025-11-26", "7", 1)]


def test_attendance_of_a_range_of_days(history: Location) -> None:
    arguments = ("attendance", "--from", "2025-11-26", "--to", "2025-12-28", "--tz", "UTC", "-o", "csv")
    assert [line.split(",")[:2] for line in run(history, *arguments).stdout.splitlines()[1:]] == [["2025-11-26", "7"], ["2025-12-28", "9"]]


def test_traffic_of_a_month_has_its_days(history: Location) -> None:
    done = run(history, "traffic", "--month", "2025-02", "--by", "day", "--tz", "Europe/Berlin", "-o", "csv")
    assert len(done.stdout.splitlines()) == 1 + 28


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--month", "2025-13"), "is not a month"),
        (("--month", "2025-11", "--day", "2025-11-01"), "give --day"),
        (("--month", "2025-11", "--from", "2025-11-01"), "give --day"),
        (("--from", "2025-11-02", "--to", "2025-11-01"), "are not 1 to"),
        (("--to", "2025-11-01"), "are not 1 to"),
        (("--from", "1900-01-01", "--to", "2025-11-01"), "are not 1 to"),
    ],
)
def test_days_that_make_no_sense_are_a_usage_error(history: Location, arguments: tuple[str, ...], reason: str) -> None:
    done = run(history, "attendance", *arguments)
    assert (done.exit_code, reason in done.stderr) == (2, True)
