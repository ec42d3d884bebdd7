"""Functions that the tests of the device's store run in processes of their own."""

import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from device_events import event, events

import facewire_device.store
from facewire_device.rows import Row, moved_row
from facewire_device.store import open_store
from facewire_device.store_file import set_aside
from facewire_device.uploader import Fork


def start_process(function: Callable[..., None], *args: Any) -> Any:
    process = multiprocessing.get_context("spawn").Process(target=function, args=args)
    process.start()
    return process


def append_many(path: Path, first: int, count: int) -> None:
    with open_store(path) as store:
        for number in range(first, first + count):
            store.append([event(number)])


def append_until_killed(path: Path, durable: Any) -> None:
    with open_store(path) as store:
        for number in range(1, 1_000_000):
            durable.send(store.append([event(number)]).last)


def die_in_a_fork(path: Path) -> None:
    """Fork a store of 500 events, and be killed while the third hundred moves."""
    moved = itertools.count(1)

    def move_or_die(row: Row, by: int) -> Row:
        if next(moved) == 250:
            os.kill(os.getpid(), signal.SIGKILL)
        return moved_row(row, by)

    facewire_device.store.moved_row = move_or_die  # type: ignore[attr-defined]  # in this process only
    with open_store(path) as store:
        store.apply_ack(lambda _: Fork(50))


def make_store(path: Path) -> None:
    open_store(path, capacity=50, machine="m").close()


def damage_store(path: Path) -> None:
    """Leave a store that is damaged by what its WAL holds, and whole without."""
    with open_store(path) as store:
        store.append(events(1, 300))
    with open_store(path) as store:
        store.append([event(301)])
        with store.transaction():
            store.execute("UPDATE state SET cursor = 999")
        left = {suffix: Path(f"{path}{suffix}").read_bytes() for suffix in ("", "-wal")}
    for suffix, whole in left.items():
        Path(f"{path}{suffix}").write_bytes(whole)


def set_store_aside(path: Path) -> None:
    set_aside(path)
