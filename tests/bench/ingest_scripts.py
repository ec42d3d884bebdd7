"""Obvious scripts, to compare with: `python tests/bench/ingest_scripts.py PORT obvious|each FILE`.

obvious    peewee, `insert_many` for each batch in paho's callback, committed, acked
each       the same, but each event is committed by itself
"""

import sys

import msgpack
import peewee
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

database = peewee.SqliteDatabase(None)


class Event(peewee.Model):
    device = peewee.TextField()
    seq = peewee.BigIntegerField()
    timestamp = peewee.BigIntegerField(index=True)
    score = peewee.FloatField()
    identity_id = peewee.TextField(index=True)
    identity_name = peewee.TextField()
    person_type = peewee.IntegerField()
    group_name = peewee.TextField(null=True)
    ep_id = peewee.TextField(null=True)
    want_action = peewee.TextField(null=True)
    device_ip = peewee.TextField(null=True)
    out_timestamp = peewee.BigIntegerField(null=True)

    class Meta:
        database = database
        indexes = ((("device", "seq"), True),)


def on_message(client: paho.Client, each: bool, message: paho.MQTTMessage) -> None:
    device = message.topic.split("/")[2]
    batch = msgpack.unpackb(message.payload)
    rows = [{"device": device, **event} for event in batch["events"]]
    if each:
        for row in rows:
            Event.create(**row)
    else:
        with database.atomic():
            Event.insert_many(rows).execute()
    ack = {"epoch": batch["epoch"], "boot": batch["boot"], "key": batch["cursor"], "cursor": batch["cursor"], "store": "x"}
    client.publish(f"facewire/v1/{device}/ack", msgpack.packb(ack), 1)


def main(port: int, how: str, path: str) -> None:
    database.init(path, pragmas={} if how == "each" else {"journal_mode": "wal"}, check_same_thread=False)
    database.connect()
    database.create_tables([Event])
    database.close()
    client = paho.Client(CallbackAPIVersion.VERSION2, userdata=how == "each")
    client.on_message = on_message
    client.connect("127.0.0.1", port)
    client.on_subscribe = lambda *_: print("connected", file=sys.stderr, flush=True)
    client.subscribe("facewire/v1/+/history", 1)
    client.loop_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
