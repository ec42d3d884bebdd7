"""What the tests of the device's store do in processes of their own; those import it by its name."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from device_events import event

from facewire_device.store import open_store
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
    with open_store(path) as store:
        inserts = store._insert
        calls: list[int] = []

        def insert(rows: Any) -> None:
            inserts(rows)
            calls.append(1)
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGKILL)

        store._insert = insert  # type: ignore[method-assign]  # to die at a moment that only it knows
        store.apply_ack(lambda _: Fork(50))
