"""`facewire broker run`, as a process."""

import signal
import subprocess

import pytest
from broker_process import FACEWIRE, broker_process
from click.testing import CliRunner
from mqtt_probe import Probe

from facewire_broker_cli.broker import broker
from facewire_mqtt.address import is_loopback

pytestmark = [pytest.mark.network, pytest.mark.process]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_it_prints_its_address_and_ends_with_0_on_a_signal(host: str, number: signal.Signals) -> None:
    with broker_process("--listen", f"{host}:0") as (running, where):
        with Probe(where, "a") as one:
            one.subscribe(("x", 1))
            one.publish("x", b"hello")
            assert one.message().payload == b"hello"
            running.send_signal(number)
            assert one.is_closed()
        assert running.wait(20) == 0


def test_a_client_that_reads_nothing_does_not_delay_the_end() -> None:
    with broker_process("--listen", "127.0.0.1:0") as (running, where), Probe(where, "stuck") as stuck, Probe(where, "b") as other:
        stuck.subscribe(("x", 1))
        for _ in range(100):
            other.publish("x", bytes(200_000))
        running.send_signal(signal.SIGTERM)
        assert running.wait(15) == 0


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "192.0.2.1"])  # noqa: S104
def test_without_users_only_loopback_is_served(host: str) -> None:
    result = CliRunner().invoke(broker, ["run", "--listen", f"{host}:0"])
    assert result.exit_code == 2
    assert "--users" in result.stderr


@pytest.mark.parametrize("text", ["1883", "127.0.0.1", "127.0.0.1:", "::1:1883", "127.0.0.1:65536", "a b:1"])
def test_a_malformed_address_is_a_usage_error(text: str) -> None:
    result = CliRunner().invoke(broker, ["run", "--listen", text])
    assert result.exit_code == 2
    assert "HOST:PORT" in result.stderr


def test_an_address_in_use_is_a_one_line_error() -> None:
    with broker_process("--listen", "127.0.0.1:0") as (_, where):
        second = subprocess.run(
            [FACEWIRE, "broker", "run", "--listen", f"127.0.0.1:{where.port}"], capture_output=True, text=True, timeout=20, check=False
        )
    assert second.returncode == 1
    assert second.stderr.endswith(": Address already in use\n"), second.stderr
    assert "cannot listen on" in second.stderr
    assert "Traceback" not in second.stderr


def test_a_name_is_loopback_if_it_resolves_to_loopback_only() -> None:
    assert is_loopback("localhost")
    assert is_loopback("127.9.9.9")
    assert not is_loopback("nowhere.invalid")
