"""Two threads of one process make a platform's database at the same time.

A device's stores need no such test: one lock of the process lets one thread at a time open them.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import peewee
import pytest
from waiting import WITHIN

from facewire_platform.history.queries import History
from facewire_platform.store.writer import open_store


def make(path: Path) -> str:
    with open_store(path) as store, History(path):
        return store.identity


def test_each_database_gets_all_of_its_own_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, waited = threading.Barrier(2), threading.local()
    create_all = peewee.SchemaManager.create_all

    def create_beside(*arguments: Any, **options: Any) -> None:
        if not hasattr(waited, "once"):  # before a thread's first table: the other thread has begun too
            waited.once = begun.wait(WITHIN)
        create_all(*arguments, **options)

    monkeypatch.setattr(peewee.SchemaManager, "create_all", create_beside)
    with ThreadPoolExecutor(2) as threads:
        identities = list(threads.map(make, (tmp_path / "1.db", tmp_path / "2.db")))
    assert len(set(identities)) == 2
