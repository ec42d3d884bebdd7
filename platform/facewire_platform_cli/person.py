"""`facewire report person`: everything about one person, in one file."""

import contextlib
import datetime as dt
import io
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TextIO

import click

from facewire.plain import plain
from facewire_cli.output import standard_output, to_json, write_rows
from facewire_platform.history.person import Summary, events_of, photographs, quarantined_of
from facewire_platform.history.queries import History
from facewire_platform.history.reader import Row
from facewire_platform.store.database import locate
from facewire_platform_cli.events import EVENT_COLUMNS
from facewire_platform_cli.export import whole_file, whole_path
from facewire_platform_cli.moments import check_zone, iso
from facewire_platform_cli.options import check_text, database_option

QUARANTINE: Final = ("id", "topic", "reason", "size_bytes", "first_at", "last_at", "times", "payload")


@click.command()
@click.argument("identity", metavar="ID", callback=check_text)
@database_option
@click.option("--to", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Here, when it is whole.  [default: stdout]")
@click.option(
    "-o", "--output", type=click.Choice(["json", "zip"]), help="A zip has photographs as files.  [default: json, or what FILE ends in]"
)
@click.option("--tz", metavar="ZONE", callback=check_zone, help="Time zone of the days: Europe/Berlin.  [default: this machine's]")
def person(identity: str, database: str, to: Path | None, output: str | None, tz: dt.tzinfo) -> None:
    """Write everything about one person.

    ID is an identity_id or an identity_name. The answer has where, when and how
    often they were seen; each event with all its fields, photographs among
    them; and the quarantined messages that contain them.
    """
    form = output or ("zip" if to is not None and to.suffix.lower() == ".zip" else "json")
    if form == "zip" and to is None and sys.stdout.isatty():
        raise click.UsageError("a zip is not for a terminal: give --to FILE")
    with History(locate(database)) as history:
        write = _write_zip if form == "zip" else _write_json
        summary = write(history, identity, tz, to)
    if not summary.events:
        click.echo("nobody has this identity_id or identity_name", err=True)


def _write_json(history: History, identity: str, zone: dt.tzinfo, to: Path | None) -> Summary:
    """One object. The events come before what is known only after them: none is kept in memory."""
    summary = Summary()
    with contextlib.nullcontext(standard_output()) if to is None else whole_file(to) as out:
        out.write(f'{{"person":{to_json(identity)},"events":[')
        for event in events_of(history, identity):
            out.write(("," if summary.events else "") + "\n" + to_json(event))
            summary.add(event, zone)
        out.write("\n],\n" + to_json(plain(_facts(history, identity, summary, zone)))[1:] + "\n")
    return summary


def _write_zip(history: History, identity: str, zone: dt.tzinfo, to: Path | None) -> Summary:
    """person.json, events.jsonl, events.csv, and a file for each photograph."""
    summary = Summary()
    with _binary(to) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        with _member(archive, "events.jsonl") as out:
            for event in events_of(history, identity):
                out.write(to_json(event) + "\n")
                summary.add(event, zone)
        with _member(archive, "events.csv") as out:
            write_rows(events_of(history, identity), "csv", EVENT_COLUMNS, out=out)
        for event in events_of(history, identity):
            for number, (raw, ending) in enumerate(_photographs(event), 1):
                name = f"photographs/{event['device']}-{event['epoch']}-{event['seq']}-{number}.{ending}"
                archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), raw)
        facts = {"person": identity, **_facts(history, identity, summary, zone)}
        archive.writestr("person.json", json.dumps(plain(facts), ensure_ascii=False, indent=2))
    return summary


def _photographs(event: Row) -> Iterator[tuple[bytes, str]]:
    for value in event.values():
        yield from photographs(value)


@contextlib.contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator[TextIO]:
    with archive.open(name, "w", force_zip64=True) as raw, io.TextIOWrapper(raw, encoding="utf-8", newline="") as out:
        yield out


@contextlib.contextmanager
def _binary(to: Path | None) -> Iterator[Any]:
    if to is None:
        yield sys.stdout.buffer
        return
    with whole_path(to) as part, part.open("wb") as out:
        yield out


def _facts(history: History, identity: str, summary: Summary, zone: dt.tzinfo) -> dict[str, Any]:
    return {
        "count": summary.events,
        "first_seen": iso(summary.first_seen, zone),
        "last_seen": iso(summary.last_seen, zone),
        "identity_ids": summary.identity_ids,
        "identity_names": summary.identity_names,
        "places": [
            {"device": device, "ep_id": endpoint, "events": events, "first_seen": iso(first, zone), "last_seen": iso(last, zone)}
            for (device, endpoint), (events, first, last) in sorted(summary.places.items(), key=str)
        ],
        "days": summary.days,
        "quarantine": [{name: entry[name] for name in QUARANTINE} for entry in quarantined_of(history, identity)],
    }
