"""`facewire platform`: run the worker that stores and acks."""

import signal

import click

from facewire.topics import Topics
from facewire_cli.history import database_option
from facewire_cli.options import connection_options
from facewire_mqtt.address import Address
from facewire_platform.schema import locate
from facewire_platform.worker import Worker


@click.group()
def platform() -> None:
    """Run the platform: ingest and acks."""


@platform.command()
@connection_options
@database_option
def run(address: Address, topics: Topics, database: str) -> None:
    """Store what devices publish, and ack what is durable.

    SQLite takes one worker at a time. SIGINT and SIGTERM end it after the
    messages at hand; it may be killed at any time without loss.
    """
    worker = Worker(locate(database), address, topics)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: worker.stop())
    worker.run()
