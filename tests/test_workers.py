"""Workers share the work, on Mosquitto and PostgreSQL, and are killed at random moments.

`make chaos-workers KILLS=100` runs it for longer.
"""

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from facewire_process import FACEWIRE, Running
from mosquitto_server import Mosquitto
from platform_store import rows

KILLS = int(os.environ.get("FACEWIRE_KILLS", "10"))
#: The events of 100 devices, half a batch each per period. A worker restarts in about a second.
SECONDS = 20 + KILLS

pytestmark = [pytest.mark.process, pytest.mark.mosquitto, pytest.mark.postgresql]


def worker(stack: ExitStack, port: int, database: str | Path) -> Running:
    return stack.enter_context(Running("platform", "run", "-p", str(port), "--database", str(database), "--share", "workers"))


@pytest.mark.timeout(120 + 3 * SECONDS)
def test_three_workers_killed_in_a_loop_store_every_event_once(new_mosquitto: Callable[..., Mosquitto], postgresql: str) -> None:
    port = new_mosquitto().address.port
    chance = random.Random(7)
    with ExitStack() as stack:
        workers = [worker(stack, port, postgresql) for _ in range(3)]
        for one in workers:
            one.wait_for("connected")
        load = ("--devices", "200", "--rate", "2", "--for", f"{SECONDS}s", "--seed", "7", "--database", postgresql)
        fleet = subprocess.Popen([*FACEWIRE, "simulate", "-p", str(port), *load], stdout=subprocess.PIPE, text=True)
        stack.callback(fleet.kill)
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.0, 0.5))  # a random moment
            place = chance.randrange(3)
            workers[place].end(signal.SIGKILL)
            workers[place] = worker(stack, port, postgresql)
            workers[place].wait_for("connected")
        out, _ = fleet.communicate(timeout=60 + 2 * SECONDS)
        verdict = json.loads(out)
    assert fleet.returncode == 0, verdict
    assert verdict["recorded"] == verdict["acked"] == verdict["stored"] > 0
    assert (verdict["lost"], verdict["doubled"], verdict["missing"], verdict["forks"]) == (0, 0, 0, 0)
    assert rows(postgresql, "SELECT count(*) FROM stream WHERE watermark <> stored OR gaps > 0") == [(0,)]


def test_the_work_is_shared(new_mosquitto: Callable[..., Mosquitto], postgresql: str) -> None:
    port = new_mosquitto().address.port
    with ExitStack() as stack:
        workers = [worker(stack, port, postgresql) for _ in range(2)]
        for one in workers:
            one.wait_for("connected")
        load = ("--devices", "20", "--rate", "2", "--for", "1s", "--seed", "7", "--database", postgresql)
        assert subprocess.run([*FACEWIRE, "simulate", "-p", str(port), *load], stdout=subprocess.DEVNULL, check=False).returncode == 0
        for one in workers:
            one.end()
        batches = [int(one.text.rpartition("batches=")[2].split()[0]) for one in workers]
    assert min(batches) > 0, batches


def test_a_second_worker_on_sqlite_is_refused_with_a_remedy(new_mosquitto: Callable[..., Mosquitto], tmp_path: Path) -> None:
    port, database = new_mosquitto().address.port, f"sqlite:///{tmp_path}/x.db"
    with ExitStack() as stack:
        first = worker(stack, port, database)
        first.wait_for("connected")
        second = worker(stack, port, database)
        assert second.wait() == 1
        assert "SQLite takes one at a time, PostgreSQL any number" in second.text
