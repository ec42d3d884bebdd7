"""A hundred terminals in one bridge: `make bench-bridge`, with `BOXES=100 RATE=2 SECONDS=30`.

    ack       from a record's push to its PushAck, ms: the record is durable in between
    memory    resident bytes of the bridge's process
    cpu       of the bridge's process, in percent of one core

Broker, bridge and terminals share the machine, as they would not on a site.
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
            bridge.wait_for("connected to the terminals' broker", within=60)
            acks, cpu = _load(broker.port, bridge.process.pid, boxes, rate, seconds, picture)
            memory = _memory(bridge.process.pid)
            code = bridge.end(within=60)
        server.kill()
    assert code == 0, bridge.text[-2000:]
    acks.sort()
    made = int(boxes * rate * seconds)
    print(f"{len(acks)} of {made} records acked")
    print(f"ack: p50 {acks[len(acks) // 2]:.1f} ms, p99 {acks[int(len(acks) * 0.99)]:.1f} ms, most {acks[-1]:.1f} ms")
    print(f"memory: {memory / 1e6:.0f} MB    cpu: {cpu:.0f} % of a core")


def _load(port: int, pid: int, boxes: int, rate: float, seconds: float, picture: int) -> tuple[list[float], float]:
    """The time of each ack, ms, and the CPU time of the bridge, %."""
    pushed: dict[tuple[str, int], float] = {}
    acks: list[float] = []

    def told(_client: object, _userdata: object, message: paho.MQTTMessage) -> None:
        info = json.loads(message.payload)["info"]
        if at := pushed.pop((message.topic.rpartition("/")[2], info.get("SnapOrRecordID")), None):
            acks.append((time.monotonic() - at) * 1000)

    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv311)
    client.on_message = told
    client.connect("127.0.0.1", port)
    client.subscribe("mqtt/face/+", 0)
    client.loop_start()
    begin, cpu = time.monotonic(), _cpu(pid)
    for number in range(int(boxes * rate * seconds)):
        box, record = str(number % boxes), number // boxes + 1
        time.sleep(max(0.0, begin + number / (boxes * rate) - time.monotonic()))
        pushed[box, record] = time.monotonic()
        client.publish(f"mqtt/face/{box}/Rec", _record(box, record, picture), 0)
    share = (_cpu(pid) - cpu) / (time.monotonic() - begin) * 100
    time.sleep(1)
    client.disconnect()
    client.loop_stop()
    return acks, share


def _record(box: str, record: int, picture: int) -> str:
    info = {
        "customId": f"emp-{record}", "personId": "3", "RecordID": str(record), "VerifyStatus": "1", "PersonType": "0",
        "similarity1": "83.000000", "Sendintime": 1, "personName": "Ana Cruz", "facesluiceId": box, "PushType": 0,
        "time": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
        "pic": f"data:image/jpeg;base64,{JPEG_BASE64[:16]}{os.urandom(picture // 2).hex()[: picture // 4 * 4]}",
    }  # fmt: skip
    return json.dumps({"operator": "RecPush", "info": info})


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> int:
    status = subprocess.run(["grep", "VmRSS", f"/proc/{pid}/status"], capture_output=True, text=True, check=True).stdout
    return int(status.split()[1]) * 1024


if __name__ == "__main__":
    bench()
