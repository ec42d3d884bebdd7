"""Threads of one process make stores at the same time, as a bridge's lanes do."""

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import facewire_platform.store.objects
from facewire_device import opening
from facewire_device.store import open_store
from facewire_platform.history.queries import History
from facewire_platform.store import writer


def make_device(path: Path) -> str:
    opening._our_objects.cache_clear()
    with open_store(path) as store:
        return store.ring().epoch


def make_platform(path: Path) -> str:
    facewire_platform.store.objects._ours.cache_clear()
    facewire_platform.store.objects._good.clear()
    with writer.open_store(path) as store, contextlib.closing(History(path)):
        return store.identity


@pytest.mark.parametrize("make", [make_device, make_platform])
def test_each_store_gets_all_of_its_own_tables(make: Callable[[Path], Any], tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(make, (tmp_path / f"{number}.db" for number in range(40))))
    assert len(set(made)) == 40
