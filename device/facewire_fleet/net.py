"""A fleet on the network: thousands of devices, one event loop.

    start ─▶ connect, a few at a time ─▶ run: people pass ─▶ drain: until all is acked ─▶ goodbye
                                           └─ outage in its middle: every session is aborted, no
                                              device connects, then each comes back with jitter

`member` is one device of it.
"""

import asyncio
import contextlib
import gc
import random
import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from facewire.errors import BrokerError
from facewire.topics import Topics
from facewire_device.identity import new_id
from facewire_fleet.fleet import Device, Plan
from facewire_fleet.member import KEEPALIVE, Member, Network, Tally
from facewire_mqtt.address import Address, tls_context
from facewire_mqtt.backoff import RECONNECT_WAIT
from facewire_mqtt.session import CONNECT_TIMEOUT
from facewire_system.failures import reason_of

#: New connections per second at the start; a listener's backlog may be only a hundred.
CONNECTS_A_SECOND: Final = 1_000
#: Connects that run at one time, after an outage too.
CONNECTING: Final = 200
#: How long to wait for acks after the run, beside the periods of the backlog, s.
DRAIN_PATIENCE: Final = 60.0
POLL_EVERY: Final = 0.1
#: How long to wait until all sessions have ended, s.
GOODBYE: Final = 5.0
#: File descriptors beside those of the connections.
SPARE_FILES: Final = 64


@dataclass(frozen=True, slots=True)
class State:
    """The state of a fleet."""

    elapsed: float
    devices: int
    connected: int
    recorded: int
    acked: int
    #: Events overwritten before they were acked.
    dropped: int
    #: Devices with events that are not acked.
    not_fully_acked: int
    tally: Tally


def allow_files(devices: int) -> None:
    """Raise the limit of open files to what so many devices need.

    Raises:
        BrokerError: the hard limit is lower.
    """
    needed = devices + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, max(needed, hard)))
    except (ValueError, OSError) as exc:
        raise BrokerError(f"{devices} devices need {needed} open files, but the limit here is {hard} (ulimit -Hn)") from exc


class Fleet:
    """Runs many devices in one event loop.

    Args:
        address: the broker's.
        topics: names of the topics.
        names: the devices'.
        plan: the devices' common settings.
        seed: decides who passes when.
        outage: how long all sessions are down in the middle of the run, s.
    """

    def __init__(self, address: Address, topics: Topics, names: list[str], plan: Plan, *, seed: int, outage: float) -> None:
        self._address, self._topics, self._plan = address, topics, plan
        self._names, self._seed, self._outage = names, seed, outage
        self._members: list[Member] = []

    async def run(self, progress: Callable[[State], None], every: float) -> State:
        """Do the run and the drain; call `progress` every `every` seconds.

        Raises:
            BrokerError: the broker cannot be reached at the start, or refuses a device.
        """
        self._loop = asyncio.get_running_loop()
        self._network = await self._look_up_broker()
        began = self._loop.time()
        starts_at = self._starts_at = began + 1.0 + len(self._names) / CONNECTS_A_SECOND
        self._members = [self._member(name, starts_at) for name in self._names]
        for place, member in enumerate(self._members):
            member.begin(began + place / CONNECTS_A_SECOND)
        # These objects live until the end. If the collector walked them again and again, it would
        # show as latency.
        gc.collect()
        gc.freeze()
        watching = asyncio.create_task(self._watch(progress, every))
        try:
            await self._run_phases(starts_at)
            return self.state()
        finally:
            watching.cancel()
            await self._disconnect_all()

    def state(self) -> State:
        """The state now."""
        rings = [member.device.memory.ring for member in self._members]
        return State(
            elapsed=self._loop.time() - self._starts_at,
            devices=len(rings),
            connected=sum(member.session.up for member in self._members),
            recorded=sum(ring.head for ring in rings),
            acked=sum(ring.cursor for ring in rings),
            dropped=sum(ring.dropped for ring in rings),
            not_fully_acked=sum(not member.fully_acked for member in self._members),
            tally=self._network.tally,
        )

    def heads(self) -> dict[tuple[str, str], int]:
        """The head of each recorded stream, by (device, epoch)."""
        rings = ((member.device.name, member.device.memory.ring) for member in self._members)
        return {(name, ring.epoch): ring.head for name, ring in rings}

    def _member(self, name: str, starts_at: float) -> Member:
        own = random.Random(f"{self._seed} {name}").random  # noqa: S311  # no secret
        return Member(self._network, Device(name, self._plan, starts_at=starts_at, random=own, jitter=self._network.jitter, new_id=new_id))

    async def _look_up_broker(self) -> Network:
        """Look up the broker's address once for all devices, and check that it answers."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                _, writer = await asyncio.open_connection(self._address.host, self._address.port)
            endpoint: tuple[str, int] = writer.get_extra_info("peername")[:2]
            writer.close()
            await writer.wait_closed()
        except OSError as exc:  # of which TimeoutError is one
            raise BrokerError(f"{self._address}: {reason_of(exc)}") from exc
        jitter = random.Random(self._seed).random  # noqa: S311  # no secret
        gate = asyncio.Semaphore(CONNECTING)
        return Network(self._loop, self._address, endpoint, tls_context(self._address), self._topics, gate, jitter)

    async def _run_phases(self, starts_at: float) -> None:
        ends_at = starts_at + self._plan.duration
        if self._outage:
            await self._wait_until((starts_at + ends_at - self._outage) / 2)
            await self._cause_outage()
        await self._wait_until(ends_at)
        give_up_at = ends_at + self._drain_time()
        while not all(member.fully_acked for member in self._members) and self._loop.time() < give_up_at:
            await self._wait_until(self._loop.time() + POLL_EVERY)

    async def _cause_outage(self) -> None:
        self._network.outage = True
        for member in self._members:
            member.session.abort()
        await self._wait_until(self._loop.time() + self._outage)
        self._network.outage = False

    async def _wait_until(self, moment: float) -> None:
        while (left := moment - self._loop.time()) > 0:
            self._check_reachable()
            await asyncio.sleep(min(left, POLL_EVERY))

    def _check_reachable(self) -> None:
        """Raise if no device can work: the broker refuses them, or none has a session."""
        if self._network.refused is not None:
            raise self._network.refused
        if not self._network.tally.sessions and self._loop.time() > self._starts_at + CONNECT_TIMEOUT:
            raise BrokerError(f"{self._address}: no device has a session: {self._network.tally.last_error or 'no answer'}")

    def _drain_time(self) -> float:
        """How long the backlog may take, at `catch_up` batches in a period."""
        backlog = max(member.device.memory.ring.lag for member in self._members)
        periods = 2 + backlog // (100 * self._plan.catch_up)
        return DRAIN_PATIENCE + periods * self._plan.period + RECONNECT_WAIT[1]

    async def _watch(self, progress: Callable[[State], None], every: float) -> None:
        ping_at = report_at = self._loop.time()
        while True:
            await asyncio.sleep(POLL_EVERY)
            now = self._loop.time()
            if now >= ping_at + KEEPALIVE / 2:
                ping_at = now
                for member in self._members:
                    member.session.ping()
            if now >= report_at + every:
                report_at = now
                progress(self.state())

    async def _disconnect_all(self) -> None:
        for member in self._members:
            member.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE):
                while any(member.session.up for member in self._members):
                    await asyncio.sleep(POLL_EVERY)
