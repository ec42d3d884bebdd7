"""`facewire report attendance` and `traffic`: days of history, and how complete they are.

Each row says whether it is complete. JSON Lines end with one row for each device, which says how
far its history reaches: an answer without these rows was cut off. `record` distinguishes the kinds
of rows. Standard error has the same for people.
"""

import datetime as dt
import functools
import itertools
import os
import zoneinfo
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from facewire.proof import Proof
from facewire_cli.options import DEVICE, output_option
from facewire_cli.output import Form, visible, write_rows
from facewire_platform.columns.filter import Filter
from facewire_platform.history import periods, reports
from facewire_platform.history.periods import Period
from facewire_platform.history.queries import History, Row
from facewire_platform.history.reports import Completeness
from facewire_platform.store.database import locate
from facewire_platform_cli.options import check_text, database_option

F = TypeVar("F", bound=Callable[..., Any])

#: Devices named on standard error.
MAX_NAMED: Final = 10
MAX_DAYS: Final = 3_660


def _check_zone(_ctx: click.Context, _param: click.Parameter, value: str | None) -> dt.tzinfo:
    name = value or os.environ.get("TZ", "").lstrip(":")
    try:
        if name:
            return zoneinfo.ZoneInfo(name)
        with Path("/etc/localtime").open("rb") as file:
            return zoneinfo.ZoneInfo.from_file(file)
    except FileNotFoundError:
        return dt.UTC
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as exc:
        raise click.BadParameter(f"{name[:80]!a} is not a time zone of this system, such as Europe/Berlin or UTC") from exc


def _check_day(ctx: click.Context, _param: click.Parameter, value: object) -> dt.date:
    """Read a day; `today` is today in the zone, which is read first."""
    text = value.isoformat()[:10] if isinstance(value, dt.date) else str(value)  # a settings file may hold a TOML date
    if text in ("today", "yesterday"):
        return dt.datetime.now(ctx.params["tz"]).date() - dt.timedelta(days=text == "yesterday")
    try:
        return dt.date.fromisoformat(text)
    except ValueError as exc:
        raise click.BadParameter(f"{text[:80]!a} is not a day: 2026-11-23, today, yesterday") from exc


_REPORT_OPTIONS = (
    database_option,
    click.option("--day", default="today", show_default=True, callback=_check_day, help="The last day: 2026-11-23, today or yesterday."),
    click.option("--days", type=click.IntRange(1, MAX_DAYS), default=1, show_default=True, help="This many days, up to --day."),
    click.option(
        "--tz", metavar="ZONE", is_eager=True, callback=_check_zone, help="Time zone of the days: Europe/Berlin.  [default: this machine's]"
    ),
    click.option("-d", "--device", type=DEVICE, help="Only this device."),
    click.option("--group", callback=check_text, help="Only comparisons with this group."),
    click.option("--min-score", type=float, help="Only scores of at least this.  [default: any comparison]"),
    output_option,
)


def report_options(command: F) -> F:
    """Add the options of all reports.

    The command gets `history`, `wanted: Filter`, `days: list[Period]`, `zone` and `output`.
    """

    @functools.wraps(command)
    def with_days(database: str, day: dt.date, days: int, tz: dt.tzinfo, **given: Any) -> Any:
        wanted = Filter(**{name: given.pop(name) for name in ("device", "group", "min_score")})
        try:
            chosen = [periods.day(day - dt.timedelta(days=back), tz) for back in reversed(range(days))]
        except (ValueError, OverflowError) as exc:
            raise click.BadParameter(f"{day}: {exc}", param_hint="'--day'") from exc
        with History(locate(database)) as history:
            return command(history=history, wanted=wanted, days=chosen, zone=tz, **given)

    for option in reversed(_REPORT_OPTIONS):
        with_days = option(with_days)
    return with_days  # type: ignore[return-value]  # its options take the place of what the command gets


@click.group()
def report() -> None:
    """Report attendance or traffic, and how complete it is."""


@report.command()
@report_options
@click.option("--in", "entrances", metavar="EP", multiple=True, help="An ep_id where people come in; may be repeated.")
@click.option("--out", "exits", metavar="EP", multiple=True, help="An ep_id where people go out; may be repeated.")
def attendance(
    history: History, wanted: Filter, days: list[Period], zone: dt.tzinfo, output: Form, entrances: tuple[str, ...], exits: tuple[str, ...]
) -> None:
    """First and last sighting of each person, on each day.

    Strangers are left out. A pass is a comparison; one below the threshold
    counts too, unless --min-score says otherwise. --in and --out add the
    columns first_in and last_out.
    """
    complete = Completeness(history, wanted.device)
    moments = ("first_seen", "last_seen", *(["first_in"] if entrances else []), *(["last_out"] if exits else []))

    def rows() -> Iterator[Row]:
        for day in days:
            whole = complete.covers(day)
            for row in reports.attendance(history, wanted, day, entrances=entrances, exits=exits):
                times = {name: _iso(row[name], zone) for name in moments}
                yield {"record": "attendance", "day": _iso(day.since, zone)[:10], **row, **times, "complete": whole}

    columns = ("day", "identity_id", "identity_name", *moments, "passes", "complete")
    _write_report(rows(), complete, days, zone, output, columns)


@report.command()
@report_options
@click.option("--by", type=click.Choice(["hour", "day"]), default="hour", show_default=True)
def traffic(history: History, wanted: Filter, days: list[Period], zone: dt.tzinfo, output: Form, by: str) -> None:
    """Events, distinct people and strangers of each hour or day.

    A day may have 23 or 25 hours. People are distinct identity_ids other than
    strangers; strangers are counted by events.
    """
    complete = Completeness(history, wanted.device)
    spans = days if by == "day" else itertools.chain.from_iterable(periods.hours(day, zone) for day in days)

    def rows() -> Iterator[Row]:
        for row in reports.traffic(history, wanted, spans):
            period = Period(row["since"], row["until"])
            times = {"since": _iso(period.since, zone), "until": _iso(period.until, zone)}
            yield {"record": "traffic", **row, **times, "complete": complete.covers(period)}

    _write_report(rows(), complete, days, zone, output, ("since", "until", "events", "people", "strangers", "complete"))


def _write_report(
    rows: Iterable[Row], complete: Completeness, days: list[Period], zone: dt.tzinfo, output: Form, columns: tuple[str, ...]
) -> None:
    whole = Period(days[0].since, days[-1].until)
    devices = list(complete.of(whole))
    device_rows = (
        {
            "record": "device",
            "device": coverage.device,
            "complete": coverage.covers(whole),
            "complete_until": _iso(coverage.complete_until, zone),
            "watermark_at": _iso(coverage.watermark_at, zone),
            "lag": coverage.lag,
            "gaps": coverage.gaps,
            "lost": coverage.lost,
            "proof": coverage.proof,
        }
        for coverage in devices
    )
    shown: dict[str, Callable[[Any], str]] = {name: _short for name in columns if name in _MOMENTS}
    write_rows(itertools.chain(rows, device_rows) if output == "json" else rows, output, columns, shown=shown)
    for line in (*_notice(devices, whole, zone), *_unproven(devices)):
        click.echo(line, err=True)


def _notice(devices: list[reports.Coverage], whole: Period, zone: dt.tzinfo) -> Iterator[str]:
    incomplete = [coverage for coverage in devices if not coverage.covers(whole)]
    if not incomplete:
        yield f"complete: everything that {len(devices)} devices recorded" if devices else "no device has reported yet"
        return
    yield f"incomplete: {len(incomplete)} of {len(devices)} devices"
    for coverage in incomplete[:MAX_NAMED]:
        until = (
            f"complete until {_short(_iso(coverage.complete_until, zone))}"
            if coverage.complete_until is not None
            else "nothing received yet"
        )
        lag = f", {coverage.lag} events behind" if coverage.lag else ""
        lost = f", {coverage.lost} events lost" if coverage.gaps else ""
        yield visible(f"  {coverage.device}: {until}{lag}{lost}")
    if len(incomplete) > MAX_NAMED:
        yield f"  and {len(incomplete) - MAX_NAMED} more"


def _unproven(devices: list[reports.Coverage]) -> Iterator[str]:
    """The bridged devices whose boxes may have lost events that nobody can name."""
    unproven = [coverage for coverage in devices if coverage.proof not in {None, Proof.PROVEN}]
    for coverage in unproven[:MAX_NAMED]:
        yield visible(f"  {coverage.device}: its box is {coverage.proof}")
    if len(unproven) > MAX_NAMED:
        yield f"  and {len(unproven) - MAX_NAMED} more"


_MOMENTS: Final = ("first_seen", "last_seen", "first_in", "last_out", "since", "until")


def _iso(at_ms: int | None, zone: dt.tzinfo) -> Any:
    """A moment for programs and people: 2026-11-23T08:01:02.003+01:00; ms beyond the calendar."""
    try:
        return None if at_ms is None else periods.local(at_ms, zone).isoformat(timespec="milliseconds")
    except OverflowError:
        return f"{at_ms} ms"


def _short(iso: str) -> str:
    """For people: without the zone, and without zero seconds."""
    return iso[:19].replace("T", " ").removesuffix(":00")
