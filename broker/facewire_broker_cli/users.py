"""`facewire broker users`: manage the users of the broker and their roles."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click

from facewire.roles import Role
from facewire_broker import credentials
from facewire_broker.credentials import PASSWORD_ROUNDS, TOKEN_ROUNDS, Users, UsersFile
from facewire_cli.options import output_option
from facewire_cli.output import Form, write_rows

#: A shorter password can be guessed, no matter how it is hashed.
MIN_PASSWORD: Final = 12


@click.group()
def users() -> None:
    """Manage the users of the broker and their roles. Changes need no restart."""


_users_option = click.option(
    "--users",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("facewire.users"),
    show_default=True,
    help="Password file in Mosquitto's format. The roles are beside it, in FILE.roles.",
)
_password_option = click.option(
    "--password-file",
    type=click.File(),
    help="Read your own password from the first line of this file; - is stdin. By default a secret is generated and shown.",
)

_secret_to_option = click.option(
    "--secret-to",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the generated secret to this new file, readable by its owner only, and do not show it.",
)


@contextlib.contextmanager
def _editing(path: Path) -> Iterator[Users]:
    with UsersFile(path).editing() as by_name:
        try:
            yield by_name
        except ValueError as exc:
            raise click.UsageError(str(exc)) from exc


def _secret(password_file: Any, secret_to: Path | None) -> tuple[str, int]:
    """Return the secret and its number of hash rounds."""
    if password_file is not None and secret_to is not None:
        raise click.UsageError("--secret-to is for a generated secret, but --password-file gives one")
    if password_file is None:
        return credentials.generate_secret(), TOKEN_ROUNDS
    password = password_file.readline().rstrip("\r\n")
    if len(password) < MIN_PASSWORD:
        raise click.UsageError(f"password of {len(password)} characters is shorter than {MIN_PASSWORD}")
    return password, PASSWORD_ROUNDS


def _write_secret(secret_to: Path | None, secret: str, *, replace: bool) -> None:
    """Write the secret to its file, which is new, or with `replace` takes the place of another."""
    if secret_to is None:
        return
    try:
        if replace and secret_to.is_file():
            secret_to.unlink()
        with os.fdopen(os.open(secret_to, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secret + "\n")
    except OSError as exc:
        raise click.BadParameter(f"{secret_to}: {exc.strerror}", param_hint="'--secret-to'") from exc


def _show(name: str, role: Role, secret: str, rounds: int, secret_to: Path | None, output: Form) -> None:
    """Show the user; also the secret, if it was generated and is not in a file."""
    shown = rounds == TOKEN_ROUNDS and secret_to is None
    row = {"user": name, "role": str(role), **({"secret": secret} if shown else {})}
    write_rows([row], output, tuple(row))
    if shown:
        click.echo("The secret is not stored and will not be shown again.", err=True)


def _names(ctx: click.Context, param: click.Parameter, text: str | None) -> tuple[str, ...]:
    """Read names with commas between them."""
    return tuple(text.split(",")) if text else ()


@users.command("add")
@click.argument("name")
@click.option("--role", type=click.Choice([str(role) for role in Role]), required=True, help="What the user may do.")
@click.option("--status", is_flag=True, help="Let a consumer also follow the devices' status.")
@click.option(
    "--devices", metavar="NAME,NAME…", callback=_names, help="Let a consumer follow only these devices, or a bridge speak for them."
)
@_password_option
@_secret_to_option
@_users_option
@output_option
def users_add(
    name: str,
    role: str,
    status: bool,
    devices: Sequence[str],
    password_file: Any,
    secret_to: Path | None,
    path: Path,
    output: Form,
) -> None:
    """Add a user. For a device, NAME is the device's name."""
    secret, rounds = _secret(password_file, secret_to)
    with _editing(path) as by_name:
        credentials.add(by_name, name, Role(role), secret, rounds=rounds, status=status, devices=devices)
        # Before the users are written: if this fails, no user has a secret that nobody knows.
        _write_secret(secret_to, secret, replace=False)
        _show(name, Role(role), secret, rounds, secret_to, output)


@users.command("list")
@_users_option
@output_option
def users_list(path: Path, output: Form) -> None:
    """List the users, without their secrets."""
    found = UsersFile(path).load().values()
    rows = [
        {"user": user.name, "role": str(user.role), "status": user.status, **({"devices": ",".join(user.devices)} if user.devices else {})}
        for user in found
    ]
    write_rows(rows, output, ["user", "role", "status", *(["devices"] if any(user.devices for user in found) else [])])


@users.command("narrow")
@click.argument("name")
@click.option("--devices", metavar="NAME,NAME…", callback=_names, required=True, help="The devices; an empty text for all.")
@_users_option
def users_narrow(name: str, devices: Sequence[str], path: Path) -> None:
    """Let a consumer follow other devices, or a bridge speak for others.

    The broker closes its connections.
    """
    with _editing(path) as by_name:
        credentials.narrow(by_name, name, devices)


@users.command("passwd")
@click.argument("name")
@_password_option
@_secret_to_option
@_users_option
@output_option
def users_passwd(name: str, password_file: Any, secret_to: Path | None, path: Path, output: Form) -> None:
    """Give a user a new secret. The broker closes its connections."""
    secret, rounds = _secret(password_file, secret_to)
    with _editing(path) as by_name:
        credentials.set_secret(by_name, name, secret, rounds=rounds)
        role = by_name[name].role
        _write_secret(secret_to, secret, replace=True)
        _show(name, role, secret, rounds, secret_to, output)


@users.command("remove")
@click.argument("name")
@_users_option
def users_remove(name: str, path: Path) -> None:
    """Remove a user. The broker closes its connections."""
    with _editing(path) as by_name:
        del by_name[credentials.get_user(by_name, name).name]
