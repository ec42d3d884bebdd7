"""`facewire report attendance` and `traffic`: days of history, and how complete they are.

Each row says whether it is complete. JSON Lines end with one row for each device, which says how
far its history reaches: an answer without these rows was cut off. `record` distinguishes the kinds
of rows. Standard error has the same for people.
"""

import datetime as dt
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

import click

from facewire.counted import counted
from facewire.proof import ProofClass
from facewire_cli.options import DEVICE, IntRange, output_option
from facewire_cli.output import Form, visible, write_rows
from facewire_platform.filter import Filter
from facewire_platform.health.state import describe_times
from facewire_platform.history import periods, reports
from facewire_platform.history.periods import Period
from facewire_platform.history.queries import History
from facewire_platform.history.reader import Row
from facewire_platform.history.reports import Completeness
from facewire_platform.sightings import EARLIEST
from facewire_platform.store.database import locate
from facewire_platform_cli.moments import check_zone, iso
from facewire_platform_cli.options import check_text, database_option, mention_unknown
from facewire_platform_cli.person import person
from facewire_system.clock import now_ms

F = TypeVar("F", bound=Callable[..., Any])

#: Devices named on standard error.
MAX_NAMED: Final = 10
MAX_DAYS: Final = 3_660


def _check_day(ctx: click.Context, _param: click.Parameter, value: object) -> dt.date | None:
    """Read a day; `today` is today in the zone, which is read first."""
    if value is None:
        return None
    text = value.isoformat()[:10] if isinstance(value, dt.date) else str(value)  # a settings file may hold a TOML date
    if text in ("today", "yesterday"):
        return dt.datetime.now(ctx.params["tz"]).date() - dt.timedelta(days=text == "yesterday")
    try:
        return dt.date.fromisoformat(text)
    except ValueError as exc:
        raise click.BadParameter(f"{text[:80]!a} is not a day: 2026-11-23, today, yesterday") from exc


def _check_month(_ctx: click.Context, _param: click.Parameter, value: str | None) -> dt.date | None:
    """Read a month, as its first day."""
    if value is None:
        return None
    try:
        return dt.datetime.strptime(value, "%Y-%m").replace(tzinfo=dt.UTC).date()
    except ValueError as exc:
        raise click.BadParameter(f"{value[:80]!a} is not a month: 2026-11") from exc


_REPORT_OPTIONS = (
    database_option,
    click.option("--day", default="today", show_default=True, callback=_check_day, help="The last day: 2026-11-23, today or yesterday."),
    click.option("--days", type=IntRange(1, MAX_DAYS), default=1, show_default=True, help="This many days, up to --day."),
    click.option("--from", "first", metavar="DAY", callback=_check_day, help="The first day, instead of --day and --days."),
    click.option("--to", "last", metavar="DAY", callback=_check_day, help="The last day, with --from.  [default: today]"),
    click.option("--month", metavar="MONTH", callback=_check_month, help="All days of a month: 2026-11."),
    click.option(
        "--tz", metavar="ZONE", is_eager=True, callback=check_zone, help="Time zone of the days: Europe/Berlin.  [default: this machine's]"
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
    def with_days(database: str, tz: dt.tzinfo, **given: Any) -> Any:
        wanted = Filter(**{name: given.pop(name) for name in ("device", "group", "min_score")})
        chosen = {name: given.pop(name) for name in ("day", "days", "first", "last", "month")}
        try:
            first, last = _first_and_last(tz, **chosen)
            days = [periods.day(first + dt.timedelta(days=more), tz) for more in range((last - first).days + 1)]
        except (ValueError, OverflowError) as exc:
            raise click.BadParameter(f"{chosen['last'] or chosen['month'] or chosen['day']}: {exc}", param_hint="'--day'") from exc
        with History(locate(database)) as history:
            mention_unknown(history, [wanted.device])
            return command(history=history, wanted=wanted, days=days, zone=tz, **given)

    for option in reversed(_REPORT_OPTIONS):
        with_days = option(with_days)
    return with_days  # type: ignore[return-value]  # its options take the place of what the command gets


def _first_and_last(
    zone: dt.tzinfo, *, day: dt.date, days: int, first: dt.date | None, last: dt.date | None, month: dt.date | None
) -> tuple[dt.date, dt.date]:
    source = click.get_current_context().get_parameter_source
    typed = [name for name in ("day", "days") if source(name) is click.core.ParameterSource.COMMANDLINE]
    if sum((bool(typed), first is not None or last is not None, month is not None)) > 1:
        raise click.UsageError("give --day and --days, or --from and --to, or --month")
    if month is not None:
        return month, (month + dt.timedelta(days=31)).replace(day=1) - dt.timedelta(days=1)
    if first is None and last is None:
        return day - dt.timedelta(days=days - 1), day
    last = dt.datetime.now(zone).date() if last is None else last
    if first is None or not 0 <= (last - first).days < MAX_DAYS:
        raise click.UsageError(f"--from {first} --to {last} are not 1 to {MAX_DAYS} days")
    return first, last


@click.group()
def report() -> None:
    """Report attendance or traffic, and how complete it is."""


report.add_command(person)


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
    columns first_in and last_out. While the clock of a box behind a bridge is
    off, each time also stands by the bridge's clock, in a column …_corrected.
    """
    complete = Completeness(history, wanted.device)
    moments = ("first_seen", "last_seen", *(["first_in"] if entrances else []), *(["last_out"] if exits else []))

    corrected = [f"{name}_corrected" for name in moments] if complete.clocks_off else []

    def rows() -> Iterator[Row]:
        found = reports.attendance_of_days(history, wanted, days, entrances=entrances, exits=exits)
        for day, some in itertools.groupby(found, key=lambda one: one[0]):
            date, whole = iso(day.since, zone)[:10], complete.covers(day)
            people = (row for _, row in some)
            for row in reports.with_corrected_times(history, people, moments) if corrected else people:
                times = {name: iso(row[name], zone) for name in (*moments, *corrected)}
                yield {"record": "attendance", "day": date, **row, **times, "complete": whole}

    columns = ("day", "identity_id", "identity_name", *moments, *corrected, "passes", "complete")
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
            times = {"since": iso(period.since, zone), "until": iso(period.until, zone)}
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
            "complete_until": iso(coverage.complete_until, zone),
            "watermark_at": iso(coverage.watermark_at, zone),
            "lag": coverage.lag,
            "gaps": coverage.gaps,
            "lost": coverage.lost,
            "proof": coverage.proof,
        }
        for coverage in devices
    )
    shown: dict[str, Callable[[Any], str]] = {name: show for name in columns if (show := _SHOWN.get(name.removesuffix("_corrected")))}
    write_rows(itertools.chain(rows, device_rows) if output == "json" else rows, output, columns, shown=shown)
    # A report of 1970 shows them itself.
    times = describe_times(complete.implausible(now_ms())) if whole.until > EARLIEST else ""
    for line in (*_notice(devices, whole, zone), *_unproven(devices), *([times] if times else [])):
        click.echo(line, err=True)


def _notice(devices: list[reports.Coverage], whole: Period, zone: dt.tzinfo) -> Iterator[str]:
    incomplete = [coverage for coverage in devices if not coverage.covers(whole)]
    if not incomplete:
        recorded = f"{counted(len(devices), 'device')} recorded"
        yield f"complete: everything that {recorded}" if devices else "no device has reported yet"
        return
    yield f"incomplete: {len(incomplete)} of {counted(len(devices), 'device')}"
    for coverage in incomplete[:MAX_NAMED]:
        until = (
            f"complete until {_second(iso(coverage.complete_until, zone))}"
            if coverage.complete_until is not None
            else "nothing received yet"
        )
        lag = f", {counted(coverage.lag, 'event')} behind" if coverage.lag else ""
        lost = f", {counted(coverage.lost, 'event')} lost" if coverage.gaps else ""
        yield visible(f"  {coverage.device}: {until}{lag}{lost}")
    if len(incomplete) > MAX_NAMED:
        yield f"  and {len(incomplete) - MAX_NAMED} more"


def _unproven(devices: list[reports.Coverage]) -> Iterator[str]:
    """The bridged devices whose boxes may have lost events that nobody can name."""
    unproven = [coverage for coverage in devices if coverage.proof not in {None, ProofClass.PROVEN}]
    for coverage in unproven[:MAX_NAMED]:
        yield visible(f"  {coverage.device}: its box is {coverage.proof}")
    if len(unproven) > MAX_NAMED:
        yield f"  and {len(unproven) - MAX_NAMED} more"


def _second(iso: str) -> str:
    """For people: without the zone."""
    return iso[:19].replace("T", " ")


def _minute(iso: str) -> str:
    """The beginning or end of a period. All moments of one column must have the same precision."""
    return _second(iso).removesuffix(":00")


_SHOWN: Final = dict.fromkeys(("first_seen", "last_seen", "first_in", "last_out"), _second) | dict.fromkeys(("since", "until"), _minute)
