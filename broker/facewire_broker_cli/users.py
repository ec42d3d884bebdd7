"""`facewire broker users`: say who may use the broker, and as what."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from facewire_broker import credentials
from facewire_broker.access import Role
from facewire_broker.credentials import PASSWORD_ROUNDS, TOKEN_ROUNDS, Users, UsersFile
from facewire_cli.options import output_option
from facewire_cli.output import Form, write_rows

#: Shorter ones are guessed whatever they are hashed with.
MIN_PASSWORD: Final = 12


@click.group()
def users() -> None:
    """Say who may use the broker, and as what. Changes count at once, without a restart."""


_users_option = click.option(
    "--users",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("facewire.users"),
    show_default=True,
    help="Password file, as Mosquitto reads it; the roles lie beside it, in FILE.roles.",
)
_password_option = click.option(
    "--password-file",
    type=click.File(),
    help="A password of your own, in its first line; - is stdin. Without it one is generated, and shown.",
)

_secret_to_option = click.option(
    "--secret-to",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the generated secret to this file, for its owner alone, in place of showing it.",
)


@contextlib.contextmanager
def _editing(path: Path) -> Iterator[Users]:
    with UsersFile(path).editing() as found:
        try:
            yield found
        except ValueError as exc:
            raise click.UsageError(str(exc)) from exc


def _secret(password_file: Any, secret_to: Path | None) -> tuple[str, int]:
    """A secret, and the rounds that it is hashed with."""
    if password_file is not None and secret_to is not None:
        raise click.UsageError("--secret-to is for a generated secret, --password-file gives one")
    if password_file is None:
        return credentials.generate_secret(), TOKEN_ROUNDS
    password = password_file.readline().rstrip("\r\n")
    if len(password) < MIN_PASSWORD:
        raise click.UsageError(f"password of {len(password)} characters is shorter than {MIN_PASSWORD}")
    return password, PASSWORD_ROUNDS


def _write_secret(secret_to: Path | None, secret: str) -> None:
    """Before the users are written: a secret that could be kept nowhere is nobody's."""
    if secret_to is None:
        return
    try:
        secret_to.unlink(missing_ok=True)
        with os.fdopen(os.open(secret_to, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secret + "\n")
    except OSError as exc:
        raise click.BadParameter(f"{secret_to}: {exc.strerror}", param_hint="'--secret-to'") from exc


def _show(name: str, role: Role, secret: str, rounds: int, secret_to: Path | None, output: Form) -> None:
    """Show a generated secret, this once; one that was given, or is in a file, is not shown."""
    shown = rounds == TOKEN_ROUNDS and secret_to is None
    write_rows([{"user": name, "role": str(role), **({"secret": secret} if shown else {})}], output, ["user", "role", "secret"])
    if shown:
        click.echo("The secret is not stored and not shown again.", err=True)


@users.command("add")
@click.argument("name")
@click.option("--role", type=click.Choice([str(role) for role in Role]), required=True, help="What it may do.")
@click.option("--status", is_flag=True, help="A consumer may follow the devices' status too.")
@_password_option
@_secret_to_option
@_users_option
@output_option
def users_add(name: str, role: str, status: bool, password_file: Any, secret_to: Path | None, path: Path, output: Form) -> None:
    """Add a user. A device's NAME is the device's own."""
    secret, rounds = _secret(password_file, secret_to)
    with _editing(path) as found:
        credentials.add(found, name, Role(role), secret, rounds=rounds, status=status)
        _write_secret(secret_to, secret)
    _show(name, Role(role), secret, rounds, secret_to, output)


@users.command("list")
@_users_option
@output_option
def users_list(path: Path, output: Form) -> None:
    """List the users, without their secrets."""
    rows = [{"user": user.name, "role": str(user.role), "status": user.status} for user in UsersFile(path).load().values()]
    write_rows(rows, output, ["user", "role", "status"])


@users.command("passwd")
@click.argument("name")
@_password_option
@_secret_to_option
@_users_option
@output_option
def users_passwd(name: str, password_file: Any, secret_to: Path | None, path: Path, output: Form) -> None:
    """Give a user another secret; its connections are closed."""
    secret, rounds = _secret(password_file, secret_to)
    with _editing(path) as found:
        credentials.set_secret(found, name, secret, rounds=rounds)
        role = found[name].role
        _write_secret(secret_to, secret)
    _show(name, role, secret, rounds, secret_to, output)


@users.command("remove")
@click.argument("name")
@_users_option
def users_remove(name: str, path: Path) -> None:
    """Remove a user; its connections are closed."""
    with _editing(path) as found:
        del found[credentials.get_user(found, name).name]
