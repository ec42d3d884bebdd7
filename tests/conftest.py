from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from mosquitto_server import ANONYMOUS, Mosquitto
from postgresql_server import PostgreSQL

from facewire_mqtt import Address, backoff
from facewire_platform.store.drivers import Location

# An example may take long beside other work, and that is no fault. Each run tries the same
# examples, so that a red run is the fault of a change. `make examples` looks for others.
_PROFILE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("facewire", _PROFILE, derandomize=True)
settings.register_profile("random", _PROFILE, derandomize=False)
settings.load_profile("facewire")

#: The files that take longest, the longest first. A worker that began one of them last would work
#: on while the others have nothing left to do.
LONGEST = (
    *("exploration", "contract_platform", "workers", "contract_device", "platform_columns_exactness", "docs", "chaos"),
    *("device_sharing", "platform_columns", "platform_store", "web_hostile", "web_page", "cli_simulate", "cli_ending"),
    *("platform_making", "web_server", "platform_hostile", "bridge_killed", "restore", "broker_passwords", "deploy", "bridge_exploration"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files."""
    place = {f"test_{name}": at for at, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


@pytest.fixture
def new_mosquitto(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    """Starts brokers: `new_mosquitto(config)`. Each may be killed and started again."""
    made: list[Mosquitto] = []

    def make(config: str = ANONYMOUS) -> Mosquitto:
        made.append(Mosquitto(tmp_path, config))
        made[-1].start()
        return made[-1]

    yield make
    for broker in made:
        broker.kill()


@pytest.fixture
def mosquitto(new_mosquitto: Callable[..., Mosquitto]) -> Address:
    """A Mosquitto that admits everybody."""
    return new_mosquitto().address


@pytest.fixture
def quick_reconnects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our clients connect again within 0.2 s."""
    monkeypatch.setattr(backoff, "RECONNECT_WAIT", (0.05, 0.2))


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQL]:
    """One server for all tests. A test that kills its server makes its own."""
    server = PostgreSQL()
    yield server
    server.close()


@pytest.fixture
def postgresql(postgresql_server: PostgreSQL) -> str:
    """The URL of a new, empty database."""
    return postgresql_server.new_database()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """The location of a database of each kind, which does not exist yet or is empty."""
    location: Location = tmp_path / "x.db" if request.param == "sqlite" else request.getfixturevalue("postgresql")
    return location
