"""The form of a log line: text for people, or one JSON object per line for log collectors.

log.warning("quarantined topic=%r error=%s", topic, exc)

2026-11-23 08:00:00,123 WARNING facewire_platform.intake.worker quarantined topic='…' error=…
{"ts":"2026-11-23T08:00:00.123Z","level":"warning","logger":"facewire_platform.intake.worker","message":"quarantined","topic":"…","error":"…"}

A device, or a broker, that does the same wrong thing a thousand times a second fills no disk: lines
alike are written at most so often, and counted.
"""

import contextlib
import datetime as dt
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Final, Literal, TextIO, TypeAlias

import click

from facewire.allowance import Allowances
from facewire_cli.output import to_json, visible

log = logging.getLogger(__name__)

LogFormat: TypeAlias = Literal["text", "json"]

#: In a message before its values are filled in: a named field, a value without a name, or a
#: percent sign.
_PLACE: Final = re.compile(r"(?:(?<!\S)([A-Za-z_]\w*)=)?(%[-#0 +]*[\d*]*(?:\.[\d*]+)?[diouxXeEfFgGcrsa]|%%)")

#: Characters of one message, or of one field in JSON.
MAX_LOGGED: Final = 4_096

#: Lines of one statement: so many at once, then one each so many seconds.
ALIKE: Final = (1_000, 1.0)
#: The same for those of them that are about one device or topic.
ALIKE_OF_ONE: Final = (100, 60.0)
#: A line of each statement says how many were not written (`not_written=`), so often, s.
SUM_UP_EVERY: Final = 60.0
#: Statements and devices that are told apart.
MOST_KINDS: Final = 10_000

_ABOUT: Final = re.compile(r"(?<!\S)(?:device|topic)=%[sr]")

_ExcInfo: TypeAlias = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def set_up(level: str, form: LogFormat) -> None:
    """Log to standard error."""
    handler = Sparing(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])


def log_uncaught() -> None:
    """Log the exception that ends the process or a thread. Python would print its message too."""

    def tell(exc: BaseException | None) -> None:
        if exc is not None and not isinstance(exc, SystemExit):  # it ends a thread in silence
            log.critical("internal error", exc_info=exc)

    sys.excepthook = lambda _kind, exc, _trace: tell(exc)
    threading.excepthook = lambda args: tell(args.exc_value)


def say(notice: str, *args: object, level: int = logging.INFO) -> None:
    """Write a notice to standard error: a plain line, or a log line if the log is JSON.

    Args:
        notice: as for a logger, with fields such as `key=%s`.
        args: its values.
        level: level of the log line.
    """
    if any(isinstance(handler.formatter, JsonFormatter) for handler in logging.root.handlers):
        log.log(level, notice, *args)
    else:
        click.echo(visible(notice % args if args else notice), err=True)


class Sparing(logging.StreamHandler[TextIO]):
    """Writes similar lines only so often, then counts the rest; it writes every debug line.

    Lines are similar if one statement logs them. Each device and each topic has a share of its own
    among them, so that one device's lines cannot hide another's.
    """

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._clock = clock
        self._alike = Allowances[Any](ALIKE[0], 1 / ALIKE[1], MOST_KINDS)
        self._alike_of_one = Allowances[Any](ALIKE_OF_ONE[0], 1 / ALIKE_OF_ONE[1], MOST_KINDS)
        #: By statement: the first line that was not written, since when, and how many.
        self._unwritten: dict[Any, tuple[logging.LogRecord, float, int]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        now = self._clock()
        self._sum_up(now - SUM_UP_EVERY)
        statement = (record.name, record.levelno, record.msg if isinstance(record.msg, str) else type(record.msg))
        if record.levelno <= logging.DEBUG or not (
            self._alike_of_one.spend((*statement, _about(record)), now) or self._alike.spend(statement, now)
        ):
            super().emit(record)
            return
        first, since, count = self._unwritten.get(statement, (record, now, 0))
        if count or len(self._unwritten) < MOST_KINDS:
            self._unwritten[statement] = first, since, count + 1

    def _sum_up(self, until: float) -> None:
        for statement, (first, since, count) in list(self._unwritten.items()):
            if since <= until:
                del self._unwritten[statement]
                super().emit(_counted(first, count))

    def close(self) -> None:
        with self.lock or contextlib.nullcontext():
            self._sum_up(self._clock())
        super().close()


def _counted(record: logging.LogRecord, count: int) -> logging.LogRecord:
    text, args = str(record.msg), record.args
    if not args or not isinstance(args, tuple):
        text, args = record.getMessage().replace("%", "%%"), ()
    return logging.LogRecord(record.name, record.levelno, record.pathname, record.lineno, f"{text} not_written=%d", (*args, count), None)


def _about(record: logging.LogRecord) -> str:
    """The device or topic that a line names."""
    if not isinstance(record.msg, str) or not isinstance(record.args, tuple) or not (place := _ABOUT.search(record.msg)):
        return ""
    before = sum(found[2] != "%%" for found in _PLACE.finditer(record.msg[: place.start()]))
    return str(record.args[before : before + 1])[:200]


class TextFormatter(logging.Formatter):
    """Text, one line per message: a topic or an error cannot forge lines or drive a terminal.

    It shows type and place of an exception, not its message, which may quote a name.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's
        return _bounded(visible(super().formatMessage(record)))

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802  # logging's
        return "\nwhile handling\n".join(_places(ei[1]))


class JsonFormatter(TextFormatter):
    """One JSON object per line. `key=%s` in a message becomes a field; the rest is the message."""

    def format(self, record: logging.LogRecord) -> str:
        at = dt.datetime.fromtimestamp(record.created, dt.UTC)
        line: dict[str, Any] = {
            "ts": at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at.microsecond // 1000:03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        message, fields = split(record)
        line["message"] = _bounded(message)
        for name, value in fields.items():
            line[f"{name}_" if name in line else name] = _bounded(value) if isinstance(value, str) else value
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return to_json(line)


def split(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    """The message of a record without its fields, and the fields: all but numbers as text."""
    template, args = str(record.msg), record.args
    if not args or isinstance(args, Mapping):
        return record.getMessage(), {}
    left, fields, words, end = iter(args), dict[str, Any](), list[str](), 0
    for found in _PLACE.finditer(template):
        words.append(template[end : found.start()])
        end = found.end()
        name, place = found.groups()
        if place == "%%":
            words.append(found[0].replace("%%", "%"))
            continue
        value = next(left, None)
        if name:
            fields[name] = value if isinstance(value, int | float) else str(value)
        else:
            words.append(place % (value,))
    words.append(template[end:])
    return " ".join("".join(words).split()), fields


def _bounded(text: str) -> str:
    """The text, cut: what others sent may be as long as they like."""
    return text if len(text) <= MAX_LOGGED else f"{text[:MAX_LOGGED]}… and {len(text) - MAX_LOGGED} more characters"


def _places(exc: BaseException | None) -> Iterator[str]:
    while exc is not None:
        yield "".join(traceback.format_tb(exc.__traceback__)) + f"{type(exc).__module__}.{type(exc).__qualname__}"
        exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
