"""A terminal of the mqtt/face family, from its maker's document (tests/data/boxes/README.md).

    python box_mqtt_face.py --port 1883 --id 1099001 --resume on --count 20 --repeat 0.2

It keeps its records and pushes each. With resume on it pushes the oldest unacked one again and
again, and the others wait. With resume off it pushes each once and forgets none: a bridge may ask
for a range. At its end it prints its records and their acks as JSON. Nothing here comes from the
bridge.
"""

import argparse
import datetime as dt
import json
import queue
import random
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

#: A JPEG that begins and ends as one.
JPEG_BASE64 = "/9j/4AAQSkZJRgABAQEAAAAAAAD/2w=="


@dataclass
class Stored:
    """A record in the terminal's memory."""

    number: int
    stranger: bool
    info: dict[str, Any]
    #: Unique over resets: the test knows it by this.
    tag: str
    acked: bool = False
    pushed: int = 0


@dataclass
class Faults:
    """Probabilities of faults."""

    lose_push: float = 0.0
    lose_ack: float = 0.0
    repeat_push: float = 0.0


@dataclass
class Box:
    """The terminal. `clock` gives its local time."""

    port: int
    id: str
    resume: bool = True
    repeat: float = 10.0
    heartbeat: float = 30.0
    prefix: str = "mqtt/face"
    faults: Faults = field(default_factory=Faults)
    clock: Any = dt.datetime.now
    seed: int = 1
    picture: str = JPEG_BASE64
    answers_pulls: bool = True
    username: str | None = None
    password: str | None = None

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.memory: list[Stored] = []
        self.made: list[Stored] = []
        self.counters = {False: 0, True: 0}
        self.tags = 0
        self.said: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.online_acked = threading.Event()
        self.lock = threading.RLock()
        self.stopping = threading.Event()
        self.up = threading.Event()
        self.pulls: list[dict[str, Any]] = []
        self.commands: list[dict[str, Any]] = []
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"box-{self.id}", protocol=paho.MQTTv311)
        self.client.username_pw_set(self.username, self.password)
        self.client.reconnect_delay_set(1, 1)
        self.client.will_set(f"{self.prefix}/basic", json.dumps({"operator": "Offline", "info": {"facesluiceId": self.id}}), 0)
        self.client.on_connect = self._connected
        self.client.on_disconnect = lambda *_: self.up.clear()
        self.client.on_message = self._told
        self.thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> "Box":
        self.client.connect("127.0.0.1", self.port, 30)
        self.client.loop_start()
        assert self.up.wait(10)
        self.thread.start()
        return self

    def stop(self) -> None:
        self.stopping.set()
        self.thread.join()
        self.client.disconnect()
        self.client.loop_stop()

    def __enter__(self) -> "Box":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def record(self, *, stranger: bool = False, push: bool = True, **changes: Any) -> Stored:
        """Someone passes. With `push=False` the push is lost."""
        with self.lock:
            self.counters[stranger] += 1
            self.tags += 1
            number, tag = self.counters[stranger], f"{self.id}-{self.tags}"
            common = {
                "facesluiceId": self.id,
                "time": self.clock().strftime("%Y-%m-%d %H:%M:%S"),
                "isNoMask": "1",
                "PushType": 0,
                "targetPosInScene": [self.tags, 0, 1572, 1080],
                "pic": f"data:image/jpeg;base64,{self.picture}",
            }
            if stranger:
                info = {"SnapID": str(number), **common}
            else:
                person = {"customId": tag, "personId": "3", "personName": "Ana Cruz", "idCard": "", "telnum": " "}
                verdict = {"VerifyStatus": "1", "PersonType": "0", "similarity1": "83.000000", "Sendintime": 1}
                info = {"RecordID": str(number), **person, **verdict, **common}
            stored = Stored(number, stranger, info | changes, tag)
            self.memory.append(stored)
            self.made.append(stored)
            if not push:
                stored.pushed = 1
            elif not self.resume or self._first_unacked() is stored:
                self._push(stored)
            return stored

    def reset(self) -> None:
        """Factory reset, or DeleteAllPerson: records are gone, numbers begin anew."""
        with self.lock:
            self.memory.clear()
            self.counters = {False: 0, True: 0}

    def push_again(self, stored: Stored, **changes: Any) -> None:
        with self.lock:
            self._push(stored, **changes)

    def unacked(self) -> list[Stored]:
        with self.lock:
            return [one for one in self.memory if not one.acked]

    def wait_acked(self, timeout: float = 30.0) -> None:
        deadline = time.monotonic() + timeout
        while left := self.unacked():
            assert time.monotonic() < deadline, f"not acked: {[one.number for one in left]}"
            self.stopping.wait(0.01)

    def say(self, topic: str, message: dict[str, Any], *, retain: bool = False) -> None:
        self.client.publish(f"{self.prefix}/{topic}", json.dumps(message, ensure_ascii=False), 0, retain)

    def _first_unacked(self) -> Stored | None:
        return next((one for one in self.memory if not one.acked), None)

    def _push(self, stored: Stored, **changes: Any) -> None:
        stored.pushed += 1
        if self.chance.random() < self.faults.lose_push:
            return
        kind, operator = ("Snap", "StrSnapPush") if stored.stranger else ("Rec", "RecPush")
        message = {"operator": operator, "info": stored.info | changes}
        for _ in range(2 if self.chance.random() < self.faults.repeat_push else 1):
            self.say(f"{self.id}/{kind}", message)

    def _connected(self, client: paho.Client, *_: object) -> None:
        client.subscribe(f"{self.prefix}/{self.id}", 0)
        self.online_acked.clear()
        self.up.set()

    def _told(self, _client: object, _userdata: object, message: paho.MQTTMessage) -> None:
        told = json.loads(message.payload)
        with self.lock:
            self.commands.append(told)
            match told["operator"]:
                case "PushAck":
                    self._acked(told)
                case "Online-Ack":
                    self.online_acked.set()
                case _:
                    self._asked(told)
        self.said.put(told)

    def _acked(self, told: dict[str, Any]) -> None:
        if self.chance.random() < self.faults.lose_ack:
            return
        info = told["info"]
        assert info["PushAckType"] in {1, 2}, told
        for stored in self.memory:
            if stored.number == info["SnapOrRecordID"] and stored.stranger == (info["PushAckType"] == 1):
                stored.acked = True
        answer = {"facesluiceId": self.id, "result": "ok"} | {name: str(value) for name, value in info.items()}
        self.say(f"{self.id}/Ack", {"messageId": told["messageId"], "operator": "PushAck-Ack", "info": answer})
        if self.resume and (first := self._first_unacked()) and not first.pushed:
            self._push(first)

    def _asked(self, told: dict[str, Any]) -> None:
        assert "Delete" not in told["operator"], told
        if not told["operator"].startswith("ManualPush") or not self.answers_pulls:
            return
        self.pulls.append(told)
        info, strangers = told["info"], told["operator"] == "ManualPushSnaps"
        found = [one for one in self.memory if one.stranger == strangers and info["TimeS"] <= one.info["time"] <= info["TimeE"]]
        count = {"facesluiceId": self.id, "RecordNum": len(found), "result": "ok"}
        self.say(f"{self.id}/Ack", {"messageId": told["messageId"], "operator": "ManualPushSnaps-Ack", "info": count})
        for stored in found:
            self._push(stored, PushType=2, **({} if strangers else {"Sendintime": 0}))

    def _work(self) -> None:
        """Send presence, and push records without an ack again."""
        beat_at = repeat_at = 0.0
        while not self.stopping.wait(min(0.02, self.repeat / 2)):
            now = time.monotonic()
            if now >= beat_at and self.up.is_set():
                beat_at = now + (self.heartbeat if self.online_acked.is_set() else min(self.heartbeat, 1.0))
                local = self.clock().strftime("%Y-%m-%d %H:%M:%S")
                self.say("heartbeat", {"operator": "HeartBeat", "info": {"facesluiceId": self.id, "time": local}})
                if not self.online_acked.is_set():
                    online = {"facesluiceId": self.id, "username": "admin", "time": local, "ip": "10.0.0.9", "facesname": "IPC"}
                    self.say("basic", {"operator": "Online", "info": online})
            if self.resume and now >= repeat_at and self.up.is_set():
                repeat_at = now + self.repeat
                with self.lock:
                    if first := self._first_unacked():
                        self._push(first)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--id", default="1099001")
    parser.add_argument("--resume", choices=["on", "off"], default="on")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--repeat", type=float, default=10.0)
    parser.add_argument("--lose", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--picture-bytes", type=int, default=0)
    given = parser.parse_args()
    faults = Faults(lose_push=given.lose, lose_ack=given.lose, repeat_push=given.lose)
    picture = JPEG_BASE64[:12] + "A" * (given.picture_bytes * 4 // 3 // 4 * 4) if given.picture_bytes else JPEG_BASE64
    with Box(given.port, given.id, given.resume == "on", given.repeat, faults=faults, seed=given.seed, picture=picture) as box:
        for number in range(given.count):
            box.record(stranger=number % 5 == 4)
            time.sleep(1 / given.rate)
        if box.resume:
            box.wait_acked(60)
        made = [{"number": one.number, "stranger": one.stranger, "tag": one.tag, "acked": one.acked} for one in box.made]
        json.dump({"made": made, "pulls": len(box.pulls)}, sys.stdout)


if __name__ == "__main__":
    main()
