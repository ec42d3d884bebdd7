"""Options that several commands share, and the types of their values.

    @click.command()
    @connection_options            # -h -p -u -P … --root  ->  address=Address(…), topics=Topics(…)
    @output_option                 # -o                       ->  output="pretty" and so on
    @click.option("--since", type=MOMENT)
    def tail(address, topics, output, since): ...

`-h` is the host, as in mosquitto_sub; help is `--help` only.
"""

import dataclasses
import datetime as dt
import functools
import re
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from facewire.endpoint import MAX_PORT, PORT, TLS_PORT, parse_endpoint
from facewire.moments import parse_moment, parse_seconds
from facewire.topics import DEFAULT_ROOT, Topics, check_device

if TYPE_CHECKING:
    # It imports ssl, and `facewire events` needs only the types below.
    from facewire_mqtt.address import Address

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

#: Lengths are 16 bits on the wire (MQTT 3.1.1 section 1.5.3).
MAX_MQTT_BYTES: Final = 65_535


def _type(name: str, parse: Callable[[Any], T]) -> "click.ParamType[T]":
    """A click type from a function that raises `ValueError`.

    click alone would show the value and not the reason.
    """

    def convert(value: Any) -> T:
        try:
            return parse(value)
        except ValueError as exc:
            raise click.BadParameter(str(exc)) from exc

    convert.__name__ = name
    return click.types.FuncParamType(convert)


def moment_type(now: Callable[[], float] = time.time) -> "click.ParamType[int]":
    """The type of `--since` and `--until`, ms since 1970 UTC; `now` gives s since 1970 UTC."""

    def parse(value: Any) -> int:
        # A settings file may hold a TOML date.
        return parse_moment(value.isoformat() if isinstance(value, dt.date) else str(value), int(now() * 1000))

    return _type("moment", parse)


class IntRange(click.IntRange):
    """A range of integers. click's own errors call a value no valid "integer range"."""

    name = "integer"


class FloatRange(click.FloatRange):
    """A range of numbers. click's own errors call a value no valid "float range"."""

    name = "number"


#: int, ms since 1970 UTC.
MOMENT: Final = moment_type()
#: float, s.
SECONDS: Final = _type("duration", lambda value: parse_seconds(str(value)))
#: str that can name a device.
DEVICE: Final = _type("device", lambda value: check_device(str(value)))
#: `facewire.endpoint.Endpoint`.
ENDPOINT: Final = _type("endpoint", lambda value: parse_endpoint(str(value)))

_FILE = click.Path(exists=True, dir_okay=False)

root_option = click.option("--root", default=DEFAULT_ROOT, show_default=True, help="First part of every topic.")

_CONNECTION_OPTIONS = (
    click.option("-h", "--host", default="127.0.0.1", show_default=True, help="Host of the broker."),
    click.option("-p", "--port", type=IntRange(1, MAX_PORT), help=f"Port of the broker.  [default: {PORT}, with TLS {TLS_PORT}]"),
    click.option("-u", "--username", help="User name."),
    click.option("-P", "--password", help="Password. Other users of this machine can see it; use --password-file."),
    click.option(
        "--password-file",
        type=click.Path(exists=True, dir_okay=False, allow_dash=True),
        help="File with the password in its first line; - is stdin.",
    ),
    click.option("--cafile", type=_FILE, help="Certificate authority of the broker, PEM. Turns TLS on."),
    click.option("--cert", type=_FILE, help="Our certificate, PEM. Turns TLS on."),
    click.option("--key", type=_FILE, help="Key of our certificate, PEM. Without it --cert holds both."),
    root_option,
)


def matching(pattern: str, what: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """A callback that refuses a text that the pattern does not match: it is not `what`."""

    def check(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(pattern, value):
            raise click.BadParameter(f"{value[:80]!a} is not {what}")
        return value

    return check


def connection_options(command: F) -> F:
    """Add the options of the connection; the command gets `address: Address`, `topics: Topics`."""

    @functools.wraps(command)
    def with_address(*args: Any, root: str, **given: Any) -> Any:
        connection = {name: given.pop(name) for name in ("host", "port", "username", "password", "password_file", "cafile", "cert", "key")}
        return command(*args, address=_address(**connection), topics=topics_of(root), **given)

    for option in reversed(_CONNECTION_OPTIONS):
        with_address = option(with_address)
    return with_address  # type: ignore[return-value]  # its options take the place of `address` and `topics`


def output_option(command: F) -> F:
    """Add `-o` and `--excel`; the command gets `output: facewire_cli.output.Form`."""
    option = click.option(
        "-o",
        "--output",
        type=click.Choice(["pretty", "json", "csv"]),
        default=lambda: "pretty" if sys.stdout is not None and sys.stdout.isatty() else "json",
        help="json is JSON Lines.  [default: pretty on a terminal, json on a pipe]",
    )
    return option(excel_option(command))


def excel_option(command: F) -> F:
    """Add `--excel`, which makes the option `-o` of the command the form `excel`."""

    @functools.wraps(command)
    def with_form(*args: Any, output: str, excel: bool, **given: Any) -> Any:
        source = click.get_current_context().get_parameter_source("output")
        if excel and output != "csv" and source is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"--excel writes CSV: it does not go with -o {output}")
        return command(*args, output="excel" if excel else output, **given)

    text = 'CSV that Excel opens as it is: a byte order mark, and texts with digits as ="007".'
    return click.option("--excel", is_flag=True, help=text)(with_form)  # type: ignore[return-value]  # gets more, gives the same


def topics_of(root: str) -> Topics:
    """The topics under `--root`."""
    try:
        return Topics(root)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="'--root'") from exc


def _address(*, port: int | None, password: str | None, password_file: str | None, **given: str | None) -> "Address":
    from facewire_mqtt.address import Address, tls_context

    if password is not None and password_file is not None:
        raise click.UsageError("give either --password or --password-file, not both")
    if password_file is not None:
        password = _read_password(password_file)
    if password is not None and given["username"] is None:
        raise click.UsageError("a password needs a --username (MQTT 3.1.1 section 3.1.2.9)")
    if given["key"] and not given["cert"]:
        raise click.UsageError("--key needs its --cert")
    _check_text("--host", given["host"])
    _check_text("--username", given["username"])
    _check_text("--password", password, secret=True)
    address = Address(port=port or PORT, password=password, **given)  # type: ignore[arg-type]  # host has a default
    try:
        tls_context(address)
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc
    return address if port or not address.tls else dataclasses.replace(address, port=TLS_PORT)


def _read_password(path: str) -> str:
    try:
        with click.open_file(path, "rb") as file:
            line: bytes = file.readline(MAX_MQTT_BYTES + 3)
        password = line.rstrip(b"\r\n").decode()
    except (OSError, UnicodeDecodeError) as exc:
        # The text of a UnicodeDecodeError shows a byte of the password.
        reason = exc.strerror if isinstance(exc, OSError) else "not UTF-8"
        raise click.BadParameter(f"{path}: {reason}", param_hint="'--password-file'") from exc
    if not password:
        raise click.BadParameter(f"{path}: its first line is empty", param_hint="'--password-file'")
    return password


def _check_text(option: str, text: str | None, *, secret: bool = False) -> None:
    """Refuse a text that no session could ever send."""
    if text is None:
        return
    shown = "the value" if secret else ascii(text[:40])
    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError as exc:
        raise click.BadParameter(f"{shown} is not valid Unicode", param_hint=f"'{option}'") from exc
    if not 1 <= size_bytes <= MAX_MQTT_BYTES or "\x00" in text:
        raise click.BadParameter(f"{shown} is not 1 to {MAX_MQTT_BYTES} bytes without NUL", param_hint=f"'{option}'")
