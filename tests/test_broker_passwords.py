"""A password flood delays its own lane; and a wrong secret tells nothing about the name."""

import contextlib
import hashlib
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mqtt_probe import Probe, connect

from facewire.roles import Role
from facewire.topics import Topics
from facewire_broker import credentials
from facewire_broker.authentication import UsersAuthenticator
from facewire_broker.credentials import PASSWORD_ROUNDS, TOKEN_ROUNDS, User, UsersFile, hash_secret
from facewire_broker.embedded import Embedded
from facewire_broker.lanes import Lanes
from facewire_broker.limits import BrokerLimits
from facewire_broker.passwords import LANE_CHECKS, MAX_CHECKS, check

PASSWORD = "correct horse battery"  # noqa: S105  # of a test


# -- lanes ---------------------------------------------------------------------------------------

steps = st.lists(
    st.tuples(st.sampled_from(["add", "add", "add", "next", "remove"]), st.sampled_from("abc"), st.sampled_from("xyz")), max_size=80
)


@given(steps=steps)
def test_nothing_is_lost_or_served_twice_and_the_bounds_hold(steps: list[tuple[str, str, str]]) -> None:
    lanes: Lanes[tuple[int, str, str]] = Lanes(6, 2)
    waiting: list[tuple[int, str, str]] = []
    for number, (step, address, user) in enumerate(steps):
        if step == "next":
            item = lanes.next()
            assert (item is None) == (not waiting)
            if item is not None:
                assert item == next(other for other in waiting if other[1:] == item[1:]), "the first of its lane"
                waiting.remove(item)
        elif step == "remove":
            theirs = [other for other in waiting if other[1:] == (address, user)]
            if theirs:
                lanes.remove(theirs[-1], address, user)
                waiting.remove(theirs[-1])
        else:
            item = (number, address, user)
            waiting.append(item)
            refused = lanes.add(item, address, user)
            if refused is not None:
                waiting.remove(refused)
        assert len(lanes) == len(waiting) <= 6
        assert all(count <= 2 for count in Counter(other[1:] for other in waiting).values())


def test_lanes_of_an_address_take_turns_and_addresses_do() -> None:
    lanes: Lanes[str] = Lanes(50, 4)
    for number in range(3):
        lanes.add(f"boss {number}", "7", "boss")
    lanes.add("ada", "7", "ada")
    lanes.add("boss at 9", "9", "boss")
    assert [lanes.next() for _ in range(6)] == ["boss 0", "boss at 9", "ada", "boss 1", "boss 2", None]


def test_another_address_gets_in_though_one_address_invents_any_number_of_names() -> None:
    lanes: Lanes[str] = Lanes(50, 4)
    for number in range(1_000):
        lanes.add(f"hostile {number}", "9", f"name {number}")
    assert lanes.add("honest", "7", "boss") == "hostile 49"
    assert "honest" in {lanes.next(), lanes.next()}


def test_a_trusted_lane_comes_first_even_from_the_address_of_a_flood() -> None:
    lanes: Lanes[str] = Lanes(50, 4)
    lanes.trust("9", "boss")
    for number in range(1_000):
        lanes.add(f"hostile {number}", "9", f"name {number}")
    assert lanes.add("honest", "9", "boss") is None
    assert lanes.next() == "honest"


# -- what a wrong secret tells -------------------------------------------------------------------


def test_a_wrong_secret_costs_the_same_whoever_it_is_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """In rounds hashed, 0.1 s of them. It was 60 µs for a device, 0 for an unknown user."""
    device = User("dev1", Role.DEVICE, hash_secret("secret", TOKEN_ROUNDS))
    human = User("boss", Role.OPERATOR, hash_secret(PASSWORD, PASSWORD_ROUNDS))
    hashed, pbkdf2 = [0], hashlib.pbkdf2_hmac

    def counted(name: str, secret: bytes, salt: bytes, rounds: int) -> bytes:
        hashed[0] += rounds
        return pbkdf2(name, secret, salt, rounds)

    monkeypatch.setattr(hashlib, "pbkdf2_hmac", counted)
    for rounds, users in ((PASSWORD_ROUNDS, (None, device, human)), (1_000, (None, device))):
        for user in users:
            hashed[0] = 0
            assert not check(user, "wrong", rounds)
            assert hashed[0] == rounds, user


# -- the broker ----------------------------------------------------------------------------------


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Embedded]:
    file = UsersFile(tmp_path / "users")
    with file.editing() as users:
        for name in ("boss", "ada"):
            credentials.add(users, name, Role.OPERATOR, PASSWORD, rounds=PASSWORD_ROUNDS)
        credentials.add(users, "dev1", Role.DEVICE, "secret")
    # A busy machine may take longer than 10 s for the checks of a flood.
    limits = BrokerLimits(connect_timeout=60.0)
    with contextlib.closing(Embedded(authenticator=UsersAuthenticator(file, Topics()), limits=limits)) as it:
        yield it


@contextlib.contextmanager
def flood(broker: Embedded, *names: str) -> Iterator[None]:
    """Guess passwords of these names as fast as answers come, from 24 connections."""
    stop = threading.Event()

    def guess(number: int) -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError, AssertionError), Probe(broker.address, timeout=1) as one:
                one.send(connect(f"x{number}", user=names[number % len(names)], password=f"guess {number}"))
                one.next()

    threads = [threading.Thread(target=guess, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.network
@pytest.mark.parametrize("names", [["boss"], ["boss", "nobody", "dev1"], ["nobody"]])
def test_honest_logins_get_in_during_a_flood(broker: Embedded, names: list[str]) -> None:
    """0 of 106 got in before; here every one does, within a second on a machine at rest."""
    with flood(broker, *names):
        times = []
        for number in range(5):
            started = time.monotonic()
            with Probe(broker.address, f"ada-{number}", timeout=60, user="ada", password=PASSWORD) as ada:
                assert ada.code == 0
            times.append(time.monotonic() - started)
            with Probe(broker.address, "dev1", timeout=60, user="dev1", password="secret") as dev1:  # noqa: S106
                assert dev1.code == 0, "a device's right secret waits for nobody"
    assert statistics.median(times) < 5


@pytest.mark.network
def test_a_login_that_got_in_before_gets_in_during_a_flood_of_invented_names_too(broker: Embedded) -> None:
    with Probe(broker.address, "ada", timeout=60, user="ada", password=PASSWORD) as ada:
        assert ada.code == 0
    with flood(broker, *(f"name-{number}" for number in range(60))), Probe(broker.address, "ada", timeout=60, user="ada", password=PASSWORD) as ada:  # fmt: skip
        assert ada.code == 0


@pytest.mark.network
def test_a_flood_of_any_name_gets_the_same_answers(broker: Embedded) -> None:
    """Refused (5) and busy (3), whether the name is a person's, a device's or nobody's."""
    answers = {}
    for name in ("boss", "dev1", "nobody"):
        with contextlib.ExitStack() as stack:
            guesses = [stack.enter_context(Probe(broker.address, timeout=60)) for _ in range(LANE_CHECKS + 6)]
            for number, one in enumerate(guesses):
                one.send(connect("dev1" if name == "dev1" else f"x{number}", user=name, password="wrong"))  # noqa: S106
            codes = [packet.body[1] for one in guesses if (packet := one.next()) is not None]
        answers[name] = Counter(codes)
    assert {name: set(counted) for name, counted in answers.items()} == {name: {3, 5} for name in answers}
    assert {counted.total() for counted in answers.values()} == {LANE_CHECKS + 6}
    assert LANE_CHECKS < MAX_CHECKS
