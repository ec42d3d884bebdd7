"""A packed batch equals the decoded one. An unusual payload is not packed."""

import dataclasses

import pytest
from any_event import EVENTS
from hypothesis import given
from hypothesis import strategies as st
from platform_model import BOOT, EPOCH, batch

from facewire import codec
from facewire.codec import Format
from facewire.events import Event
from facewire.messages import Batch, decode_batch, encode
from facewire_platform.intake.decoder import pack, unpack
from facewire_platform.store.rows import CopyRows, InsertRows, Rows

both = pytest.mark.parametrize("rows", [InsertRows, CopyRows])


@given(st.sampled_from([InsertRows, CopyRows]), st.lists(EVENTS, max_size=5))
def test_an_unpacked_batch_equals_the_decoded_one(rows: type[Rows], events: list[Event]) -> None:
    payload = encode(Batch(EPOCH, BOOT, 0, len(events), 9, 1, tuple(made._replace(seq=seq) for seq, made in enumerate(events, 1))))
    packed = pack(payload, rows)
    assert packed is not None
    unpacked, here = unpack(packed, rows), decode_batch(payload)
    other_fields = [field.name for field in dataclasses.fields(Batch) if field.name != "events"]
    assert [getattr(unpacked, name) for name in other_fields] == [getattr(here, name) for name in other_fields]
    assert rows.of(unpacked.events).packed == rows.of(here.events).packed


USUAL = encode(batch(0, 2, 1, 2))
UNUSUAL = {
    "nothing": b"",
    "JSON": encode(batch(0, 1, 1), Format.JSON),
    "a bad event among good ones": USUAL.replace(codec.pack("p"), codec.pack(7), 1),
    "a shape that is wrong": encode(batch(0, 1, 1)).replace(codec.pack("after") + b"\x00", codec.pack("after") + b"\x09"),
    "a status": codec.pack({"boot": BOOT, "online": True, "at": 1}),
    "no msgpack": b"\xc1",
}


@both
@pytest.mark.parametrize("name", UNUSUAL)
def test_an_unusual_payload_is_not_packed(rows: type[Rows], name: str) -> None:
    assert pack(USUAL, rows) is not None
    assert pack(UNUSUAL[name], rows) is None
