"""A hundred terminals in one bridge: `make bench-bridge`, with `BOXES=100 RATE=2 SECONDS=30`.

    ack       from a record's push to its PushAck, ms: the record is durable in between
    memory    resident bytes of the bridge's process
    cpu       of the bridge's process, in percent of one core, and for each record, ms

Broker, bridge and terminals share the machine, as they would not on a site. Whoever pushes also
acks the batches, as a platform would: without acks, agents resend and reconnect.

A record costs three syncs: of its photograph, of the photograph's folder, of the store's WAL. On a
disk that syncs in 0.3 ms they do not dominate. CPU time does, and most of that is hand-overs of the
interpreter's lock, at each call into SQLite or the system while other threads want it.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

import click
from box_mqtt_face import JPEG_BASE64
from facewire_process import Running
from mosquitto_server import ANONYMOUS, Mosquitto
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from facewire.messages import Ack, decode_batch, encode

#: Records for so long are not measured: sessions begin, and folders of photographs are made, s.
_WARM = 5.0


@click.command()
@click.option("--boxes", default=100, show_default=True)
@click.option("--rate", default=2.0, show_default=True, help="Records a second of each.")
@click.option("--seconds", default=30.0, show_default=True)
@click.option("--picture", default=20_000, show_default=True, help="Bytes of the picture in a record.")
def bench(boxes: int, rate: float, seconds: float, picture: int) -> None:
    """Measure foreign acks, memory and CPU time."""
    with tempfile.TemporaryDirectory() as folder:
        server = Mosquitto(Path(folder), ANONYMOUS)
        server.start()
        broker = server.address
        settings = Path(folder) / "bridge.toml"
        tables = "".join(f'[mqtt-face.device.gate-{n}]\nid = "{n}"\nzone = "UTC"\n' for n in range(boxes))
        settings.write_text(f'stores = "stores"\n[broker]\nport = {broker.port}\n{tables}')
        with Running("bridge", "mqtt-face", settings) as bridge:
            bridge.wait_for("connected broker=", within=60, times=boxes)
            acks, (user, system) = _load(broker.port, bridge.process.pid, boxes, rate, seconds, picture)
            memory = _memory(bridge.process.pid)
            code = bridge.end(within=60)
        server.kill()
    assert code == 0, bridge.text[-2000:]
    acks.sort()
    made = int(boxes * rate * seconds)
    print(f"{len(acks)} of {made} records acked")
    print(f"ack: p50 {acks[len(acks) // 2]:.1f} ms, p99 {acks[int(len(acks) * 0.99)]:.1f} ms, most {acks[-1]:.1f} ms")
    print(f"memory: {memory / 1e6:.0f} MB    cpu: {(user + system) / seconds:.0%} of a core")
    print(f"cpu of a record: user {user / made * 1000:.2f} ms, system {system / made * 1000:.2f} ms")


def _load(port: int, pid: int, boxes: int, rate: float, seconds: float, picture: int) -> tuple[list[float], tuple[float, float]]:
    """The time of each ack, ms, and the CPU time of the bridge, user and system, s."""
    pushed: dict[tuple[str, int], float] = {}
    acks: list[float] = []

    def told(client: paho.Client, _userdata: object, message: paho.MQTTMessage) -> None:
        if message.topic.endswith("/history"):
            batch = decode_batch(bytes(message.payload))
            ack = Ack(batch.epoch, batch.boot, batch.cursor, batch.cursor, "bench")
            client.publish(message.topic.removesuffix("history") + "ack", encode(ack), 1)
            return
        info = json.loads(message.payload)["info"]
        if at := pushed.pop((message.topic.rpartition("/")[2], info.get("SnapOrRecordID")), None):
            acks.append((time.monotonic() - at) * 1000)

    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv311)
    client.on_message = told
    client.connect("127.0.0.1", port)
    client.subscribe([("mqtt/face/+", 0), ("facewire/v1/+/history", 0)])
    client.loop_start()
    warm = int(boxes * rate * _WARM)
    begin, cpu = time.monotonic(), _cpu(pid)
    for number in range(warm + int(boxes * rate * seconds)):
        if number == warm:
            acks.clear()
            cpu = _cpu(pid)
        box, record = str(number % boxes), number // boxes + 1
        time.sleep(max(0.0, begin + number / (boxes * rate) - time.monotonic()))
        pushed[box, record] = time.monotonic()
        client.publish(f"mqtt/face/{box}/Rec", _record(box, record, picture), 0)
    user, system = (after - before for after, before in zip(_cpu(pid), cpu, strict=True))
    time.sleep(1)
    client.disconnect()
    client.loop_stop()
    return acks, (user, system)


def _record(box: str, record: int, picture: int) -> str:
    info = {
        "customId": f"emp-{record}", "personId": "3", "RecordID": str(record), "VerifyStatus": "1", "PersonType": "0",
        "similarity1": "83.000000", "Sendintime": 1, "personName": "Ana Cruz", "facesluiceId": box, "PushType": 0,
        "time": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
        "pic": f"data:image/jpeg;base64,{JPEG_BASE64[:16]}{os.urandom(picture // 2).hex()[: picture // 4 * 4]}",
    }  # fmt: skip
    return json.dumps({"operator": "RecPush", "info": info})


def _cpu(pid: int) -> tuple[float, float]:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / os.sysconf("SC_CLK_TCK"), int(fields[12]) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> int:
    status = subprocess.run(["grep", "VmRSS", f"/proc/{pid}/status"], capture_output=True, text=True, check=True).stdout
    return int(status.split()[1]) * 1024


if __name__ == "__main__":
    bench()
