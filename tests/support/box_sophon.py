"""SophonAI boxes, from their maker's manual (tests/data/boxes/README.md): SE3, SE5, SE6.

    python box_sophon.py se3 --url http://127.0.0.1:8088/sophon/box-1 --count 20
    python box_sophon.py v5|v6 --api-port 5555 --ws-port 5679 --count 20

An SE3 posts each comparison above its threshold as realtime, once, and each comparison as history:
the oldest that is not uploaded, again until it is answered with 200. V5 and V6 keep their events,
answer queries of them, and send all comparisons over a WebSocket once a client has asked. Nothing
here comes from the bridge.
"""

import argparse
import contextlib
import http.client
import http.server
import json
import random
import sys
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

JPEG_BASE64 = "/9j/4AAQSkZJRgABAQEAAAAAAAD/2w=="
USER_TYPES = {1: "employee", 2: "visitor", 3: "blacklist", 4: "stranger", 5: "vip"}


@dataclass
class Passed:
    """A person before the camera."""

    number: int
    at: float
    score: float
    person_type: int
    identity_id: str

    @property
    def ms(self) -> int:
        return int(self.at * 1000)


@dataclass
class Se3:
    """An SE3 with V2.x firmware."""

    url: str
    period: float = 20.0
    threshold: float = 0.62
    form: str = "json"
    batch: int = 1
    lose_answer: float = 0.0
    seed: int = 1
    picture: str = JPEG_BASE64
    clock: Any = time.time

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.passed: list[Passed] = []
        #: How many of them may be uploaded: the comparison's own post comes first.
        self.ready = 0
        self.uploaded = 0
        self.answers: list[tuple[str, int, bytes]] = []
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._upload, daemon=True)
        where = urllib.parse.urlsplit(self.url)
        self.host, self.port, self.path = where.hostname or "", where.port or 80, where.path

    def __enter__(self) -> "Se3":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.thread.join()

    def compare(self, score: float, person_type: int = 1, *, realtime: bool = True) -> Passed:
        with self.lock:
            number = len(self.passed) + 1
            one = Passed(number, self.clock(), score, person_type, f"E-{number}")
            self.passed.append(one)
        if realtime and score > self.threshold:
            self.post("realtime", self.body(one))
        self.ready = number
        return one

    def body(self, one: Passed, *, history: bool = False) -> dict[str, Any]:
        ext: dict[str, Any] = {"device_ip": "10.20.0.31", "device_type": "0", "person_type": one.person_type}
        ext |= {"spot_pic": self.picture, "recognize_face": self.picture, "grab_fiqa_info": {}, "box_fiqa_info": {}}
        body = {
            "identity_id": one.identity_id,
            "identity_name": "王丽",
            "group_name": "default_group",
            "reg_pic": self.picture,
            "timestamp": one.ms,
            "score": one.score,
            "ext_data": ext,
        }
        if history:
            ext |= {"ep_id": "DEMOSN__10.20.0.31", "dev_sno": "DEMOSN"}
            body["want_action"] = "0"
        return body

    def post(self, kind: str, body: object, *, timeout: float = 10.0) -> int:
        """Returns the status; 0 if there was no answer."""
        headers, raw = {"Content-Type": "application/json"}, json.dumps(body, ensure_ascii=False).encode()
        if self.form == "form-data" and isinstance(body, dict):
            headers, raw = _form_data(body)
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            connection.request("POST", f"{self.path}/{kind}", raw, headers)
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()
        if self.chance.random() < self.lose_answer:
            return 0
        self.answers.append((kind, answer.status, content))
        return answer.status

    def status(self) -> int:
        sub = {"ep_id": "DEMOSN__10.20.0.32", "ep_name": "", "ep_ip": "10.20.0.32", "ep_status": "online", "ep_type": "1"}
        host = {"sw_version": "VERSION: V2R4C01", "cpu_usage": 6.5, "disk_free_size": 9.41, "temperature": 37}
        body = {"gateway_ip": "10.20.0.20", "gateway_status": "online", "dev_sno": "DEMOSN", "gateway_ext_data": host, "sub_devices": [sub]}
        return self.post("status", body)

    def wait_uploaded(self, timeout: float = 30.0) -> None:
        deadline = time.monotonic() + timeout
        while self.uploaded < len(self.passed):
            assert time.monotonic() < deadline, f"uploaded {self.uploaded} of {len(self.passed)}"
            self.stopping.wait(0.01)

    def _upload(self) -> None:
        while not self.stopping.wait(self.period):
            with self.lock:
                waiting = self.passed[self.uploaded : min(self.ready, self.uploaded + 100)]
            for at in range(0, len(waiting), self.batch):
                bodies = [self.body(one, history=True) for one in waiting[at : at + self.batch]]
                if self.post("history", bodies if self.batch > 1 else bodies[0]) != 200:
                    break
                self.uploaded += len(bodies)


def _form_data(body: dict[str, Any]) -> tuple[dict[str, str], bytes]:
    mark = "----box"
    parts = []
    for name, value in body.items():
        text = json.dumps(value) if isinstance(value, dict | list) else str(value)
        parts.append(f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n')
    return {"Content-Type": f"multipart/form-data; boundary={mark}"}, ("".join(parts) + f"--{mark}--\r\n").encode()


@dataclass
class Server:
    """An SE5 (`version` 5) or a box with V6."""

    version: int = 5
    api_port: int = 0
    ws_port: int = 0
    threshold: float = 82.0
    #: Events that the count of a range does not tell of yet.
    uncounted: int = 0
    #: Only so many events are found by a query yet.
    listed: int | None = None
    clock: Any = time.time
    cameras: list[str] = field(default_factory=lambda: ["cam-1"])

    def __post_init__(self) -> None:
        self.events: list[Passed] = []
        self.lock = threading.Lock()
        self.clients: list[ServerConnection] = []
        self.asked: list[dict[str, Any]] = []
        self.queries = 0
        box = self

        class Api(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(None)

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self._answer(json.loads(raw or b"{}"))

            def _answer(self, body: Any) -> None:
                found = box.answer(self.path, body)
                raw = json.dumps(found if found is not None else {"error": "not found"}).encode()
                self.send_response(200 if found is not None else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: object) -> None:
                pass

        class Http(http.server.ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """A client that has left does not count."""

        self.api = Http(("127.0.0.1", self.api_port), Api)
        self.api_port = self.api.server_port
        self.socket = serve(self._websocket, "127.0.0.1", self.ws_port)
        self.ws_port = self.socket.socket.getsockname()[1]

    def __enter__(self) -> "Server":
        for server in (self.api, self.socket):
            threading.Thread(target=server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.api.shutdown()
        self.api.server_close()
        self.socket.shutdown()
        for client in self.clients:
            client.close()

    def compare(self, score: float, person_type: int = 1, *, realtime: bool = True) -> Passed:
        with self.lock:
            number = len(self.events) + 1
            one = Passed(number, self.clock() + number * 1e-5, score, person_type, f"E-{number}" if person_type != 4 else "")
            self.events.append(one)
            clients = list(self.clients) if realtime else []
        for client in clients:
            with contextlib.suppress(ConnectionClosed):
                client.send(json.dumps(self._live(one)))
        return one

    def answer(self, path: str, body: Any) -> Any:
        where = urllib.parse.urlsplit(path)
        asked = dict(urllib.parse.parse_qsl(where.query))
        if self.version == 5:
            match where.path:
                case "/SophonDevice/api/Devices":
                    return {"data": [{"device_id": name, "device_ip": "10.20.0.31"} for name in self.cameras]}
                case "/SophonConfig/api/Configs":
                    return {"data": {"THRESHOLD": self.threshold, "THRESHOLD_RANGE": "0,82,100", "WORK_MODE": "local"}}
                case "/SophonFace/api/events":
                    span = float(asked["datetime_gte"]), float(asked["datetime_lte"])
                    return self._page(span, int(asked.get("per_page", 10)), int(asked.get("page", 0)))
            return None
        match where.path:
            case "/sophon/v2/face/getmediadevices":
                return {"media_devices": [{"media_device_id": name} for name in self.cameras]}
            case "/sophon/v2/face/getconfigs":
                return {"configs": {"MATCH_THRESHOLD": self.threshold}}
            case "/sophon/v2/face/getevents":
                filters = body["filters"]
                span = float(filters["datetime_gte"]), float(filters["datetime_lte"])
                return self._page(span, body["page_limit"], body["page_index"])
        return None

    def _page(self, span: tuple[float, float], size: int, page: int) -> dict[str, Any]:
        self.queries += 1
        with self.lock:
            found = [one for one in self.events[: self.listed] if span[0] <= one.at <= span[1]]
            uncounted = self.uncounted
        rows = [self._row(one) for one in found[page * size : (page + 1) * size]]
        total = len(found) + uncounted
        if self.version == 5:
            return {"data": rows, "pagination": {"num_pages": -(-total // size), "page": page, "per_page": size, "total_count": total}}
        return {"events": rows, "pagination": {"page_index": page, "page_limit": size, "total_count": total}}

    def _row(self, one: Passed) -> dict[str, Any]:
        event_id = f"{one.at:.6f}"
        name = "" if one.person_type == 4 else "王丽"
        if self.version == 5:
            camera = {"device_id": "cam-1", "ep_id": "0xe0__10.20.0.31", "ep_ip": "10.20.0.31", "ep_name": "gate 1", "ep_type": "photo"}
            common = {"identity_id": one.identity_id, "identity_name": name, "person_type": one.person_type, "score": one.score}
            return {"_id": event_id, "timestamp": one.at, "common": common | {"ep_info": camera, "group_name": ""}, "gate_data": {}}
        return {
            "event_id": event_id,
            "timestamp": one.at,
            "identity_id": one.identity_id,
            "identity_name": name,
            "user_type": USER_TYPES[one.person_type],
            "score": one.score,
            "media_device_info": {"media_device_id": "cam-1", "media_device_ip": "10.20.0.31"},
        }

    def _live(self, one: Passed) -> dict[str, Any]:
        common = {
            "event_id": f"{one.at:.6f}",
            "identity_id": one.identity_id,
            "identity_name": "王丽",
            "timestamp": one.ms,
            "score": one.score,
        }
        if self.version == 5:
            ext = {"person_type": one.person_type, "device_ip": "10.20.0.31", "device_type": "0", "spot_pic": JPEG_BASE64}
            return common | {"device_id": "cam-1", "group_name": "default_group", "ext_data": ext}
        return common | {"user_type": USER_TYPES[one.person_type], "media_device_id": "cam-1", "recognize_face_image": JPEG_BASE64}

    def _websocket(self, client: ServerConnection) -> None:
        """Nothing is sent until the client has asked, nor for cameras that it has not named."""
        try:
            for message in client:
                asked = json.loads(message)
                self.asked.append(asked)
                wanted = asked["event_list" if self.version == 5 else "media_device_ids"]
                with self.lock:
                    if client in self.clients:
                        self.clients.remove(client)
                    if "cam-1" in wanted:
                        self.clients.append(client)
        except ConnectionClosed:
            pass
        with self.lock:
            if client in self.clients:
                self.clients.remove(client)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["se3", "v5", "v6"])
    parser.add_argument("--url", default="")
    parser.add_argument("--api-port", type=int, default=5555)
    parser.add_argument("--ws-port", type=int, default=5679)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--lose", type=float, default=0.0)
    given = parser.parse_args()
    box: Se3 | Server
    if given.kind == "se3":
        box = Se3(given.url, period=0.1, lose_answer=given.lose)
        scores = (0.73, 0.16)
    else:
        box = Server(int(given.kind[1]), given.api_port, given.ws_port)
        scores = (91.5, 12.25)
    with box:
        for number in range(given.count):
            box.compare(scores[number % 2], 1 if number % 2 == 0 else 4)
            time.sleep(1 / given.rate)
        if isinstance(box, Se3):
            box.wait_uploaded(60)
            json.dump({"made": [one.ms for one in box.passed], "uploaded": box.uploaded}, sys.stdout)
        else:
            sys.stdin.read()
            json.dump({"made": [one.ms for one in box.events], "queries": box.queries}, sys.stdout)


if __name__ == "__main__":
    main()
