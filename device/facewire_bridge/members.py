"""The members of a bridge, each with its agent, and the threads that work on them."""

import contextlib
import dataclasses
import logging
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Final, Generic, TypeVar

from facewire_bridge.member import Member, store_path
from facewire_bridge.member_threads import MemberThreads
from facewire_bridge.settings import BridgeSettings, Device
from facewire_device.agent import Agent
from facewire_device.identity import machine_identity
from facewire_device.settings import Settings
from facewire_mqtt.address import Address
from facewire_system.folders import make_folder

log = logging.getLogger(__name__)

D = TypeVar("D", bound=Device)

#: Batches a period while a backlog remains: a bridge has a wire to the platform that a box may
#: lack.
CATCH_UP: Final = 5
_POLL_EVERY: Final = 1.0
#: Open files of the process, and of each device: it has two connections to its store, a session
#: and a lock.
_FILES: Final = 256
_FILES_EACH: Final = 24
#: How many agents say goodbye at a time.
_GOODBYES: Final = 32
#: An agent or thread that has not gone round for so long hangs, s.
_HANGS_AFTER: Final = 15.0


class Members(Generic[D]):
    """The members of a family of devices, started and stopped together.

    Args:
        settings: the whole file.
        devices: the devices of one family.
        on_failure: called when an agent has failed.

    Attributes:
        pairs: each device of the settings with its member.
        threads: they work on the members; a member's number is its place in `pairs`.

    Raises:
        StoreError: a store cannot be opened.
    """

    def __init__(self, settings: BridgeSettings, devices: Sequence[D], *, on_failure: Callable[[], None]) -> None:
        _allow_files(_FILES + _FILES_EACH * len(devices))
        make_folder(settings.stores, 0o700)
        machine = machine_identity()
        self.threads = MemberThreads()
        self.pairs: list[tuple[D, Member]] = []
        self._turned: dict[str, float] = {}
        try:
            for device in devices:
                agent = Agent(_agent_settings(settings, device, machine), on_turn=self._noter(device.name), on_failure=on_failure)
                self.pairs.append((device, Member(agent, device.photo_bytes)))
        except BaseException:
            self.stop()
            raise

    def start(self) -> None:
        """Let the agents publish, and open the ledgers, so that no record has to wait for that."""
        opening = [self.threads.run(number, member.open) for number, (_, member) in enumerate(self.pairs)]
        for _, member in self.pairs:
            member.agent.start()
        wait(future for future in opening if future is not None)

    def turns(self) -> bool:
        """Whether every agent and thread went round lately; for the main thread, once a second."""
        now = time.monotonic()
        self.threads.note_turns(self._turned)
        return all(now - turned < _HANGS_AFTER for turned in list(self._turned.values()))

    def _noter(self, name: str) -> Callable[[], None]:
        def note() -> None:
            self._turned[name] = time.monotonic()

        note()
        return note

    def stop(self) -> None:
        """Finish the work that waits, then say goodbye for every device."""
        for number, (_, member) in enumerate(self.pairs):
            self.threads.run(number, member.close)
        self.threads.close()
        # Each goodbye waits for its PUBACK.
        with ThreadPoolExecutor(_GOODBYES) as pool:
            list(pool.map(lambda each: each[1].agent.stop(), self.pairs))

    def check(self) -> None:
        """Raises `StoreError` if an agent has failed."""
        for _, member in self.pairs:
            member.agent.wait(0)


def _allow_files(count: int) -> None:
    """Raise the limit of open files, as far as we may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft < wanted:
        # A service may not be allowed to (systemd's @resources): its unit says how many it needs.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def address_of(settings: BridgeSettings, device: Device) -> Address:
    """Facewire's broker, with the credential of a device."""
    if device.credential is not None:
        username, password = device.credential
        return dataclasses.replace(settings.broker, username=username, password=password)
    if settings.as_device:
        return dataclasses.replace(settings.broker, username=device.name)
    return settings.broker


def _agent_settings(settings: BridgeSettings, device: Device, machine: str | None) -> Settings:
    return Settings(
        device.name,
        store_path(settings.stores, device.name),
        address=address_of(settings, device),
        topics=settings.topics,
        threshold=device.threshold,
        capacity=device.capacity,
        catch_up=CATCH_UP,
        machine=machine,
        set_aside=settings.set_aside_damaged,
        # Nobody else records into these stores, and a hundred agents that look 20 times a second
        # would do little else.
        poll_every=_POLL_EVERY,
    )
