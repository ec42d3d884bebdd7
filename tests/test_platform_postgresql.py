import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from platform_desk import Desk, history
from platform_model import BOOT, EPOCH, batch, event
from platform_store import check_conserved, counts, rows, run, store_batches
from postgresql_server import PostgreSQL
from psycopg import errors

from facewire.errors import StoreError
from facewire.messages import Ack, Status
from facewire_platform.filter import Filter
from facewire_platform.history.queries import History
from facewire_platform.store.database import locate, open_database
from facewire_platform.store.drivers import is_outage
from facewire_platform.store.schema import SCHEMA
from facewire_platform.store.writer import Message, Store, open_store

pytestmark = pytest.mark.postgresql


@pytest.fixture
def store(postgresql: str) -> Iterator[Store]:
    with open_store(postgresql) as opened:
        yield opened


def disconnect(url: str) -> None:
    """End all other sessions, as a restart of the server does."""
    run(url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")


def test_a_lost_connection_is_an_outage_that_calls_for_a_new_store(store: Store, postgresql: str) -> None:
    store_batches(store, batch(0, 1, 1))
    disconnect(postgresql)
    with pytest.raises(StoreError):
        store_batches(store, batch(1, 2, 2))
    assert store.replaced
    with open_store(postgresql) as again:
        assert again.identity == store.identity
        assert store_batches(again, batch(1, 2, 2)).cursor == 2


def test_a_group_whose_commit_is_uncertain_may_be_stored_again(store: Store, postgresql: str) -> None:
    group = [Message("d", batch(0, 3, 1, 3), 1), Message("d", batch(3, 4, 4), 1)]
    first = store.store(group)
    assert [ack.cursor for ack in first if isinstance(ack, Ack)] == [3, 4]
    assert [ack.cursor for ack in store.store(group) if isinstance(ack, Ack)] == [4, 4]
    check_conserved(postgresql)


def test_acked_events_survive_a_power_cut_of_the_server() -> None:
    server = PostgreSQL(settings=())
    try:
        url = server.new_database()
        with open_store(url) as store:
            assert store_batches(store, batch(0, 100, *range(1, 101))).cursor == 100
            server.stop("immediate")
            with pytest.raises(StoreError):
                store_batches(store, batch(100, 101, 101))
        server.start()
        with open_store(url) as store:
            assert store_batches(store, batch(100, 101, 101)).cursor == 101
        with History(url) as history:
            assert len(list(history.events(Filter()))) == 101
    finally:
        server.close()


def test_a_standby_that_only_reads_is_an_outage(postgresql: str) -> None:
    """During a failover the address may lead to a server that is not promoted yet."""
    open_store(postgresql).close()
    with open_store(f"{postgresql}&options=-cdefault_transaction_read_only%3Don") as store, pytest.raises(StoreError, match="read-only"):
        store_batches(store, batch(0, 1, 1))


@pytest.mark.parametrize(
    ("error", "outage"),
    [
        (errors.DeadlockDetected, True),
        (errors.SerializationFailure, True),
        (errors.AdminShutdown, True),
        (errors.ReadOnlySqlTransaction, True),
        (errors.DiskFull, True),
        (errors.LockNotAvailable, True),
        (errors.UniqueViolation, False),
        (errors.UndefinedTable, False),
        (errors.StringDataRightTruncation, False),
    ],
)
def test_errors_that_pass_by_themselves_are_outages(error: type[psycopg.Error], outage: bool) -> None:
    assert is_outage(error()) == outage


def test_a_worker_goes_on_when_its_server_is_back_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    server = PostgreSQL()
    try:
        desk = Desk(server.new_database(), monkeypatch)
        assert [ack.cursor for ack in desk.turn(history("d", 0, 1))] == [1]
        server.stop("immediate")
        assert desk.turn(history("d", 1, 2)) == []
        assert desk.turn() == []
        server.start()
        assert [ack.cursor for ack in desk.turn()] == [2]
        assert desk.stored() == {("d", 1), ("d", 2)}
        desk.worker.close()
    finally:
        server.close()


def test_an_ack_is_durable_even_if_the_server_does_not_wait_for_its_disk(postgresql: str) -> None:
    run(postgresql, "ALTER DATABASE " + postgresql.partition("@/")[2].partition("?")[0] + " SET synchronous_commit = off")
    open_store(postgresql).close()
    with closing(open_database(postgresql, "write")) as database:
        assert database.execute_sql("SHOW synchronous_commit").fetchone() == ("on",)


def test_workers_that_store_the_same_devices_at_once_store_each_event_once(postgresql: str) -> None:
    """Each group has the devices in a different order. None deadlocks, none fails."""
    names = [f"d{number}" for number in range(8)]
    failures: list[Exception] = []
    start = threading.Barrier(3)

    def work(number: int) -> None:
        try:
            with open_store(postgresql) as store:
                start.wait()
                for after in range(0, 200, 10):
                    order = names[number:] + names[:number] if number else names[::-1]
                    group = [Message(name, batch(after, after + 10, *range(after + 1, after + 11)), 1) for name in order]
                    boot = f"{after:016x}"
                    store.store([*group, *(Message(name, Status(boot, True, 1, EPOCH), 1) for name in order)])
        except Exception as exc:  # noqa: BLE001  # told by the test's thread
            failures.append(exc)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []
    assert set(rows(postgresql, "SELECT watermark, stored, gaps FROM stream")) == {(200, 200, 0)}
    assert rows(postgresql, "SELECT count(*) FROM event") == [(8 * 200,)]


def test_a_text_with_nul_comes_back_and_is_no_conflict_with_itself(store: Store, postgresql: str) -> None:
    odd = event(1)._replace(identity_id="a\x00b", identity_name="\x01", group_name="\x010", ep_id="\x00", extra={"x": "\x00"})
    for _ in range(2):
        ack = store_batches(store, batch(0, 1, odd))
        assert (ack.cursor, ack.conflict) == (1, None)
    with History(postgresql) as history:
        [row] = history.events(Filter())
        assert [row[name] for name in ("identity_id", "identity_name", "group_name", "ep_id", "x")] == [
            "a\x00b",
            "\x01",
            "\x010",
            "\x00",
            "\x00",
        ]
        assert len(list(history.events(Filter(person="a\x00b")))) == 1


def test_a_database_of_another_program_is_refused(postgresql: str) -> None:
    with pytest.raises(StoreError, match="is not the database of a facewire platform"):
        History(postgresql)
    run(postgresql, "CREATE TABLE theirs (id int)")
    with pytest.raises(StoreError, match="needs one of its own"):
        open_store(postgresql)
    assert rows(postgresql, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == [("theirs",)]


def test_a_newer_schema_is_refused_with_both_numbers(postgresql: str) -> None:
    open_store(postgresql).close()
    run(postgresql, "INSERT INTO schema_migration (name, applied) VALUES ('0099_later', now())")
    with pytest.raises(StoreError, match=f"schema 99, this facewire knows {SCHEMA}"):
        open_store(postgresql)


def test_a_query_cannot_write(store: Store, postgresql: str) -> None:
    store_batches(store, batch(0, 1, 1))
    with History(postgresql) as history, pytest.raises(Exception, match="read-only"):
        history.run("DELETE FROM event", ())
    assert counts(postgresql) == (1, 1, 0, 0)


def test_a_missing_server_is_one_line_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"^postgresql://me:\*\*\*@/x\?host=") as caught:
        open_store(f"postgresql://me:secret@/x?host={tmp_path}")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value), "psycopg's text has a second line"
    assert "No such file or directory Is the server running" in str(caught.value)


def test_workers_that_open_a_new_database_at_once_create_one_store(postgresql: str) -> None:
    identities: list[str] = []

    def work() -> None:
        with open_store(postgresql) as store:
            identities.append(store.identity)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(identities) == 4
    assert len(set(identities)) == 1


def test_a_url_may_name_a_schema(postgresql: str) -> None:
    run(postgresql, "CREATE TABLE theirs (id int)")
    run(postgresql, "CREATE SCHEMA ours")
    url = f"{postgresql}&options=-csearch_path%3Dours"
    with open_store(url) as store:
        assert store_batches(store, batch(0, 1, 1)).cursor == 1
    with psycopg.connect(postgresql) as server:
        assert server.execute("SELECT count(*) FROM ours.event").fetchone() == (1,)
    assert open_database(locate(url), "read").close() in {True, None}


def test_a_boot_that_two_workers_see_at_once_is_remembered(postgresql: str) -> None:
    with open_store(postgresql) as one, open_store(postgresql) as other:
        one.store([Message("d", Status(BOOT, True, 1, EPOCH), 1)])
        other.store([Message("d", Status("0000000000000002", True, 2, EPOCH), 2)])
        assert one.store([Message("d", Status(BOOT, False, 1), 3)]) == [False]
