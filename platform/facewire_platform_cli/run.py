"""`facewire platform`: run the worker that stores and acks."""

import logging
from typing import Any

import click

from facewire.endpoint import Endpoint
from facewire.errors import BrokerError, CredentialsRefused
from facewire.topics import Topics
from facewire_cli.ending import Ending
from facewire_cli.options import ENDPOINT, connection_options, matching
from facewire_cli.systemd import Service
from facewire_mqtt.address import Address
from facewire_platform.columns.copier import Copier
from facewire_platform.intake.worker import Worker, receiver_for
from facewire_platform.store.database import locate
from facewire_platform.store.drivers import Location
from facewire_platform_cli.backup import backup, restore
from facewire_platform_cli.columns import columns
from facewire_platform_cli.forget import forget
from facewire_platform_cli.options import database_option
from facewire_platform_cli.purge import purge
from facewire_platform_cli.web import web as web_command
from facewire_platform_cli.web import web_options, web_process
from facewire_system.failures import reason_of

log = logging.getLogger(__name__)


@click.group()
def platform() -> None:
    """Run the platform: ingest and acks."""


@platform.command()
@connection_options
@database_option
@click.option(
    "--share",
    metavar="GROUP",
    callback=matching(r"[A-Za-z0-9._-]{1,64}", "1 to 64 of A-Z a-z 0-9 . _ -"),
    help="Share the work with the other workers of GROUP; PostgreSQL only.",
)
@click.option("--metrics", type=ENDPOINT, metavar="HOST:PORT", help="Serve Prometheus metrics there (docs/health.md).")
@web_options
def run(
    address: Address,
    topics: Topics,
    database: str,
    share: str | None,
    metrics: Endpoint | None,
    web: Endpoint | None,
    web_token_file: Any,
) -> None:
    """Store what devices publish, and ack what is durable.

    SQLite allows one worker at a time. SIGINT and SIGTERM end it after the
    messages at hand; you may kill it at any time without loss.
    """
    with Ending() as ending:
        service = Service()
        location = locate(database)
        serving = web_process(location, address, topics, web, web_token_file)
        if share:
            _check_sharing(address, topics)

        def turn(subscribed: bool) -> None:  # the worker's
            if ending.asked:
                service.stopping()
                worker.stop()
            else:
                service.turn(subscribed)
                copier.turn(worker.counters.events)

        worker = Worker(location, receiver_for(location, address, topics, share), topics, on_turn=turn)
        if metrics:
            _serve_metrics(metrics, worker, location)
        with serving, Copier(location) as copier:
            worker.run()


@platform.command()
@database_option
def migrate(database: str) -> None:
    """Bring the database of an older facewire up to date.

    Stop the workers first. A SQLite file is first copied, into the same folder;
    for PostgreSQL take a pg_dump. A migration that fails changes nothing.
    """
    from facewire_platform.store.migrate import migrate as migrate_database

    applied = migrate_database(locate(database), lambda text: click.echo(text, err=True))
    click.echo(f"migrated: {', '.join(applied)}" if applied else "up to date", err=True)


platform.add_command(backup)
platform.add_command(restore)
platform.add_command(columns)
platform.add_command(purge)
platform.add_command(forget)
platform.add_command(web_command)


def _serve_metrics(at: Endpoint, worker: Worker, location: Location) -> None:
    from facewire_platform.health.metrics import serve_metrics

    try:
        port = serve_metrics(at.host, at.port, location, worker.counters)
    except OSError as exc:
        raise click.ClickException(f"--metrics cannot listen on {at}: {reason_of(exc)}") from exc
    log.info("metrics address=%s", at._replace(port=port))


def _check_sharing(address: Address, topics: Topics) -> None:
    """Refuse a broker that grants shared subscriptions but delivers nothing to them."""
    from facewire_platform.intake.sharing import shared_subscriptions_deliver

    try:
        delivers = shared_subscriptions_deliver(address, topics)
    except CredentialsRefused:
        raise
    except BrokerError as exc:
        log.warning("shared subscriptions not checked error=%s", exc)
        return
    if not delivers:
        raise BrokerError(f"{address}: grants shared subscriptions but delivers nothing to them; run one worker, without --share")
