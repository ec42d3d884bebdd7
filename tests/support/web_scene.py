"""A day at a small office, for the screenshot in the README.

It has people and a rhythm, a device that is away, a gap and a broken message.
"""

import datetime as dt
import random
import threading
from typing import Any, Final

from web_site import EPOCH, Site, event_map

from facewire_system.clock import now_ms

HOUR: Final = 3_600_000
PEOPLE: Final = [
    ("Ada Lovelace", 1), ("Юрий Белов", 1), ("Grace Hopper", 1), ("José Álvarez", 1), ("Fatima Zahra", 1), ("Chidi Okafor", 1), ("Ελένη Παππά", 1),
    ("Lena Vogel", 1), ("Marek Nowak", 1), ("Priya Raman", 1), ("Omar Haddad", 1), ("Sofia Rossi", 2), ("Tom Becker", 2), ("Ines Duarte", 2),
    ("Alan Turing", 5), ("Margaret Hamilton", 5),
]  # fmt: skip
DEVICES: Final = {
    "lobby-north": "Turnstile 1",
    "lobby-south": "Turnstile 4",
    "garage": "Barrier",
    "floor-3": "Door east",
    "canteen": "Greeter",
}
#: Passes in each hour before now, the latest first; it is about five in the afternoon.
RHYTHM: Final = [74, 58, 49, 62, 118, 96, 51, 77, 171, 92, 24, 6, 2, 1, 0, 0, 1, 3, 4, 9, 21, 48, 66, 81]


def time_zone() -> str:
    """Where it is five in the afternoon now."""
    ahead = (17 - dt.datetime.now(dt.UTC).hour + 11) % 24 - 11
    return f"Etc/GMT{-ahead:+d}"  # whose signs are the other way round


def someone(chance: random.Random) -> dict[str, Any]:
    if chance.random() < 0.18:
        return {
            "identity_id": f"stranger-{chance.randrange(900)}",
            "identity_name": "",
            "person_type": 4,
            "score": chance.uniform(0.2, 0.6),
        }
    name, kind = chance.choice(PEOPLE)
    return {
        "identity_id": str(100 + PEOPLE.index((name, kind))),
        "identity_name": name,
        "person_type": kind,
        "score": chance.uniform(0.84, 0.99),
    }


def match(chance: random.Random) -> dict[str, Any]:
    """Somebody over the threshold."""
    return next(who for who in iter(lambda: someone(chance), None) if who["score"] > 0.8)


def play(site: Site) -> None:
    """Make it happen."""
    chance, now = random.Random(7), now_ms()
    passes = sorted(
        (now - hour * HOUR - chance.randrange(HOUR), chance.choice(list(DEVICES))) for hour, n in enumerate(RHYTHM) for _ in range(n)
    )
    events_of: dict[str, list[dict[str, Any]]] = {device: [] for device in DEVICES}
    for at, device in passes:
        events = events_of[device]
        # The garage's ring overwrote 37 events in a long outage.
        seq = (events[-1]["seq"] if events else 0) + (38 if device == "garage" and len(events) == 60 else 1)
        events.append(event_map(seq, timestamp=at, ep_id=DEVICES[device], **someone(chance)))
    for device, events in events_of.items():
        for first in range(0, len(events), 100):
            site.history(device, *events[first : first + 100], after=events[first - 1]["seq"] if first else 0)
        head = events[-1]["seq"] + (6 if device == "canteen" else 0)
        site.status(
            device, epoch=EPOCH, head=head, oldest=1, cursor=events[-1]["seq"], period=20.0, capacity=10_000, dropped=0, version="0.1.0"
        )
        site.seqs[device] = head
    site.status("floor-3", online=False)
    site.wire.publish("facewire/v1/canteen/history", b"\xc1 not msgpack", qos=1)
    site.match("garage", timestamp=now - 4 * HOUR, ep_id="Barrier", **match(chance))
    for number in range(14):
        threading.Event().wait(1.4)  # so that some are fresh and some are not
        device = chance.choice([name for name in DEVICES if name != "floor-3"])
        site.match(device, timestamp=now_ms() - 200, ep_id=DEVICES[device], **match(chance))
        if number == 4:
            site.match("lobby-south", identity_id="b-9", identity_name="Victor Kane", person_type=3, score=0.883, ep_id="Turnstile 4")
