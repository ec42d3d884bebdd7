"""`facewire doctor`: checks everything that the platform needs, and says what to do."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, Final

import click

from facewire.finding import Finding
from facewire.topics import Topics
from facewire_cli.config import refused, strangers
from facewire_cli.main import EXIT_UNHEALTHY
from facewire_cli.options import SECONDS, connection_options, output_option
from facewire_cli.output import Form, write_findings, write_rows
from facewire_mqtt.address import Address
from facewire_platform.health.doctor import check_clock, check_database, check_disk
from facewire_platform.health.doctor_bridges import check_bridges
from facewire_platform.health.doctor_broker import RoleName, check_broker
from facewire_platform.store.database import locate
from facewire_platform.store.drivers import Location
from facewire_platform_cli.options import database_option

COLUMNS: Final = ("check", "verdict", "message", "remedy")


class _WithWorkerSettings(click.Command):
    """Takes the settings of `platform run`, which it checks; `[doctor]` goes first."""

    def make_context(self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any) -> click.Context:
        if parent is not None:
            file = parent.default_map or {}
            extra["default_map"] = {**file.get("platform", {}).get("run", {}), **file.get("doctor", {})}
            extra["auto_envvar_prefix"] = f"{parent.auto_envvar_prefix}_PLATFORM_RUN"
        return super().make_context(info_name, args, parent, **extra)


@click.command(cls=_WithWorkerSettings)
@connection_options
@database_option
@click.option(
    "--role", type=click.Choice(["platform", "consumer", "operator"]), default="platform", show_default=True, help="Role of the credential."
)
@click.option(
    "-W", "--wait", type=SECONDS, default="21s", show_default=True, help="How long to listen for messages that a consumer must not receive."
)
@output_option
@click.pass_context
def doctor(ctx: click.Context, address: Address, topics: Topics, database: str, role: RoleName, wait: float, output: Form) -> None:
    """Check everything that the platform needs, and say what to do.

    Settings, broker, TLS, the rights of the credential, delivery to shared
    subscriptions, database, disk, clocks. Uses the settings of `facewire
    platform run`. With another role it checks neither database nor disk. Exits
    with 3 if a check fails.
    """
    found: list[Finding] = []

    def findings() -> Iterator[Finding]:
        for finding in _findings(ctx.find_root(), address, topics, role, wait, locate(database)):
            found.append(finding)
            yield finding

    # Some checks take seconds, so each finding is shown at once.
    if output == "pretty":
        write_findings(findings())
    else:
        write_rows(map(asdict, findings()), output, COLUMNS, follow=True)
    if any(finding.verdict == "FAIL" for finding in found):
        raise click.exceptions.Exit(EXIT_UNHEALTHY)


def _findings(root: click.Context, address: Address, topics: Topics, role: RoleName, wait: float, location: Location) -> Iterator[Finding]:
    yield _settings(root)
    yield from check_broker(address, topics, role, wait)
    if role == "platform":
        yield from check_database(location)
        yield from check_bridges(location)
        yield from check_disk(location)
    yield check_clock()


def _settings(root: click.Context) -> Finding:
    wrong: Sequence[str] = [*strangers(root), *refused(root)]
    if wrong:
        return Finding("settings", "FAIL", "; ".join(wrong), "facewire config check")
    file = root.params.get("config")
    known = f"every setting of {file} exists" if file else "no settings file"
    return Finding("settings", "ok", f"{known}; every FACEWIRE_ variable is known")
