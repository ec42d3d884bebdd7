import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from platform_model import BOOT, EPOCH, batch, event
from platform_store import check_conserved, counts, rows, store_batches

from facewire import codec
from facewire.errors import StoreError
from facewire.messages import Ack, BadEvent, Match, Status, encode
from facewire.topics import Topics
from facewire_cli.main import cli
from facewire_platform.history import quarantine
from facewire_platform.history.quarantine import Retried, drop, entries, entry, retry
from facewire_platform.store.drivers import Location
from facewire_platform.store.losses import MOST_RAW_BYTES
from facewire_platform.store.writer import Message, Store, Unreadable, open_store


@pytest.fixture
def worker(location: Location) -> Iterator[Store]:
    """A store that is open all the while, as by a running worker."""
    with open_store(location) as store:
        yield store


def bad_event(seq: int | None, **changed: Any) -> BadEvent:
    """An event that was bad on arrival and that we read today, except for `changed`."""
    return BadEvent(seq, "score str is not a finite number", codec.pack({**event(seq or 1).to_map(), **changed}))


def message(store: Store, kind: str, payload: bytes, device: str = "d") -> None:
    store.store([Message(device, Unreadable(f"facewire/v1/{device}/{kind}", "unreadable", payload), 5)])


def stored(location: Location) -> list[int]:
    return [row[0] for row in rows(location, "SELECT seq FROM event ORDER BY seq")]


def test_a_bad_event_is_listed_with_its_device_and_shown_with_its_bytes(location: Location, worker: Store) -> None:
    bad = bad_event(2)
    store_batches(worker, batch(0, 3, 1, 3, bad=(bad,)), now_ms=7)
    store_batches(worker, batch(0, 3, 1, 3, bad=(bad,)), now_ms=9)
    (described,) = entries(location)
    assert described == {
        "id": 1,
        "device": "d",
        "epoch": EPOCH,
        "seq": 2,
        "topic": "d/history",
        "reason": bad.reason,
        "times": 2,
        "size_bytes": len(bad.raw),
        "first_at": 7,
        "last_at": 9,
    }
    assert entry(location, 1) == described | {"payload": bad.raw}
    assert list(entries(location, "other")) == []
    with pytest.raises(StoreError, match="no entry 2"):
        entry(location, 2)


def test_an_event_that_is_good_now_is_stored_and_counted_as_stored(location: Location, worker: Store) -> None:
    store_batches(worker, batch(0, 5, 1, 3, bad=(bad_event(2), bad_event(5))), now_ms=7)
    assert counts(location) == (5, 2, 1, 2)
    assert list(retry(location, Topics())) == [Retried(1, "stored"), Retried(2, "stored")]
    assert counts(location) == (5, 4, 1, 0)
    check_conserved(location)
    assert stored(location) == [1, 2, 3, 5]
    assert list(entries(location)) == []


def test_a_retry_is_no_sign_of_life(location: Location, worker: Store) -> None:
    store_batches(worker, batch(0, 1, bad=(bad_event(1),)), now_ms=7)
    list(retry(location, Topics()))
    assert rows(location, "SELECT last_seen, boot FROM stream") == [(7, BOOT)]


def test_a_retried_event_above_the_watermark_is_stored_once(location: Location, worker: Store) -> None:
    store_batches(worker, batch(5, 7, 7, bad=(bad_event(6),)))
    assert list(retry(location, Topics())) == [Retried(1, "stored")]
    assert list(entries(location)) == []
    store_batches(worker, batch(0, 7, 1, 2, 3, 4, 5, 6, 7))
    assert counts(location) == (7, 7, 0, 0)
    check_conserved(location)


def test_an_entry_that_is_still_bad_stays_with_its_reason(location: Location, worker: Store) -> None:
    unreadable = BadEvent(3, "odd", b"{'seq': 3}")
    store_batches(worker, batch(0, 3, 1, bad=(bad_event(2, score="high"), unreadable)))
    results = list(retry(location, Topics()))
    assert results == [Retried(1, "kept", "score str is not a finite number"), Retried(2, "kept", "its bytes cannot be read")]
    assert counts(location) == (3, 1, 0, 2)
    assert len(list(entries(location))) == 2


def test_an_entry_too_large_to_keep_whole_cannot_be_retried(location: Location, worker: Store) -> None:
    store_batches(worker, batch(0, 1, bad=(bad_event(1, face=bytes(MOST_RAW_BYTES)),)))
    (result,) = retry(location, Topics())
    assert (result.outcome, result.reason.startswith("only the first 65536 of its 65")) == ("kept", True)


def test_the_retry_of_a_whole_message_stores_it_as_if_it_arrived_now(location: Location, worker: Store) -> None:
    message(worker, "history", encode(batch(0, 3, 1, 3)))
    message(worker, "match", encode(Match(EPOCH, BOOT, 1, event(9))))
    assert [result.outcome for result in retry(location, Topics())] == ["stored", "stored"]
    assert stored(location) == [1, 3, 9]
    assert counts(location) == (3, 2, 1, 0)


def test_the_retry_of_a_message_stores_only_events(location: Location, worker: Store) -> None:
    message(worker, "status", encode(Status(BOOT, True, 1)))
    message(worker, "ack", encode(Ack(EPOCH, BOOT, 1, 1, "s")))
    message(worker, "history", b"\xc1")
    worker.store([Message("", Unreadable("elsewhere", "no topic of ours", b"x"), 1)])
    assert [result.outcome for result in retry(location, Topics())] == ["dropped", "kept", "kept", "kept"]
    assert rows(location, "SELECT count(*) FROM device") == [(0,)]


def test_a_message_that_fails_again_stays_and_the_others_are_retried(
    location: Location, worker: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for device in ("poison", "d"):
        message(worker, "history", encode(batch(0, 1, 1)), device)
    real = Store.store

    def failing(self: Store, messages: Any) -> Any:
        if messages[0].device == "poison":
            raise ZeroDivisionError("Ann Example")
        return real(self, messages)

    monkeypatch.setattr(Store, "store", failing)
    assert list(retry(location, Topics())) == [Retried(1, "kept", "internal error: ZeroDivisionError"), Retried(2, "stored")]


def test_a_dropped_event_stays_counted_as_quarantined(location: Location, worker: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "DROP_CHUNK", 2)
    store_batches(worker, batch(0, 5, 1, 2, bad=(bad_event(3), bad_event(4), bad_event(5))))
    assert drop(location, [2, 9]) == 1
    assert [row["id"] for row in entries(location)] == [1, 3]
    message(worker, "history", b"\xc1")
    assert drop(location) == 3
    assert list(entries(location)) == []
    assert counts(location) == (5, 2, 0, 3)
    check_conserved(location)


def test_a_dropped_event_that_is_resent_and_good_counts_as_stored(location: Location, worker: Store) -> None:
    store_batches(worker, batch(0, 2, 1, bad=(bad_event(2),)))
    drop(location)
    store_batches(worker, batch(0, 2, 1, 2))
    assert counts(location) == (2, 2, 0, 0)
    check_conserved(location)


# The commands


def run(path: Location, command: str, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["quarantine", command, "--database", f"sqlite:///{path}", *arguments])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with open_store(tmp_path / "x.db") as store:
        store_batches(store, batch(0, 3, 1, bad=(bad_event(2), bad_event(3, score=[]))))
        message(store, "history", b"\xc1odd")
    return tmp_path / "x.db"


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_the_quarantine_commands_list_show_retry_and_drop(path: Path) -> None:
    assert [row["id"] for row in lines(run(path, "list"))] == [1, 2, 3]
    assert lines(run(path, "show", "1"))[0]["payload"]["identity_name"] == "name"
    assert lines(run(path, "show", "3"))[0]["payload"] == "wW9kZA=="
    results = run(path, "retry", "--all")
    assert [(row["id"], row["outcome"]) for row in lines(results)] == [(1, "stored"), (2, "kept"), (3, "kept")]
    assert results.exit_code == 3
    assert run(path, "drop", "2").stderr == "dropped: 1\n"
    assert run(path, "drop", "--all").exit_code == 0
    assert lines(run(path, "list")) == []
    assert run(path, "retry", "--all").exit_code == 0


def test_the_pretty_form_of_an_entry_has_one_field_on_each_line(path: Path) -> None:
    shown = run(path, "show", "1", "-o", "pretty").stdout.splitlines()
    assert shown[0].split() == ["id", "1"]
    assert '"identity_name":"name"' in shown[-1].replace(" ", "")


@pytest.mark.parametrize("arguments", [["drop"], ["retry"], ["drop", "--all", "1"], ["drop", "0"], ["retry", "--all", "--root", "#"]])
def test_retry_and_drop_need_ids_or_all(path: Path, arguments: list[str]) -> None:
    assert run(path, *arguments).exit_code == 2
    assert len(lines(run(path, "list"))) == 3
