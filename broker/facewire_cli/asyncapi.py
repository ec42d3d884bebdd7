"""`facewire asyncapi`: the topics and messages as an AsyncAPI 3 document, for devices of others.

It is made from the contract's own types, so that the two cannot differ. Fields, types and required
fields come from the classes of `facewire.messages` and `facewire.events`, descriptions from the
`#:` comments there. This module adds only what types cannot say.
"""

import inspect
import json
import re
import types
from collections.abc import Sequence
from typing import Any, Final, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

import click

from facewire import WIRE_VERSION
from facewire.events import MAX_INT, PERSON_TYPES, Event
from facewire.messages import MAX_BATCH_EVENTS, MAX_ORIGINS, Ack, Batch, Match, Message, Origin, Rejected, Status, to_map
from facewire.topics import KINDS, QOS, Kind, Topics
from facewire_cli.options import root_option, topics_of

Schema: TypeAlias = dict[str, Any]

_CLASSES: Final[dict[Kind, type]] = {"match": Match, "history": Batch, "ack": Ack, "status": Status}
#: The contract's words, for fields without a comment of their own.
_WORDS: Final = {
    "epoch": "Identity of the device's store, made at random when the store was.",
    "boot": "Identity of this run of the device's agent, made at random at each start.",
    "head": "Highest seq ever recorded in the epoch; 0 in an empty store.",
    "oldest": "Lowest seq that the device still holds; 1 in an empty store.",
    "cursor": "The device's cursor: highest seq that the platform has acked.",
    "events": "Those in (after, cursor] that the device still holds, seqs rising. A seq there without an event is lost. None: a probe.",
    "key": "The batch's cursor.",
    "conflict": "First seq whose content differs from what is stored: the device forks.",
    "rejected": "Events that the platform keeps in quarantine and counts as handled.",
    "seq": "Place of the event in its device's store.",
    "reason": "Why.",
    "online": "False in the last will, and when the device says goodbye.",
    "threshold": "Events with a greater score are matches. Not there: the device publishes no matches.",
    "capacity": "Events that the store holds.",
    "version": "Of the device's software.",
    "identity_name": "May be empty.",
    "person_type": f"{PERSON_TYPES}; others are kept as they are.",
}
#: Integers are 0 or more, but for these.
_LEAST: Final = {"seq": 1, "oldest": 1, "conflict": 1, "capacity": 1} | dict.fromkeys(
    ("timestamp", "at", "sent_at", "received_at", "clock_error_ms", "person_type", "proof_at", "source_offset"), -MAX_INT
)
_NOT_ON_THE_WIRE: Final = {"bad", "format", "extra"}
_TOPICS: Final[dict[Kind, str]] = {
    "match": "Realtime: an event over the threshold, the moment it was made. Never retained; a late one opens no door.",
    "history": "Every event, in batches, until it is acked. Once a period, a probe where there is nothing to send.",
    "ack": "The platform's answer to a batch, once what it holds is durable.",
    "status": "A device's report on itself; retained, and the last will.",
}
_EPOCH, _BOOT, _STORE, _AT = "4be6a1f03c9d2e58", "91c07d5ea2b3f464", "0f3d9a7c55e1b286", 1_764_054_000_000
_EVENT: Final = Event(41, _AT, 0.93, "666666", "小明", 1, "staff", "gate-2", {"card_id": "A7"})
_EXAMPLES: Final[dict[Kind, dict[str, Message]]] = {
    "match": {"a match": Match(_EPOCH, _BOOT, _AT + 12, _EVENT)},
    "history": {
        "a batch that has lost 39 and 40": Batch(_EPOCH, _BOOT, 38, 41, 57, 41, (_EVENT,)),
        "a probe": Batch(_EPOCH, _BOOT, 57, 57, 57, 12, ()),
    },
    "ack": {
        "stored": Ack(_EPOCH, _BOOT, 41, 41, _STORE),
        "stored, but for one event": Ack(_EPOCH, _BOOT, 41, 41, _STORE, rejected=(Rejected(41, "score is missing: a finite number"),)),
        "restored from a backup: go back to 12": Ack(_EPOCH, _BOOT, 41, 12, _STORE),
        "another content is stored under 40": Ack(_EPOCH, _BOOT, 41, 39, _STORE, conflict=40),
        "refused whole": Ack(_EPOCH, _BOOT, 41, 38, _STORE, retry_after=5_000, error="101 events are over the limit of 100"),
    },
    "status": {
        "online": Status(
            _BOOT,
            True,
            _AT,
            _EPOCH,
            head=57,
            oldest=12,
            cursor=41,
            threshold=0.8,
            period=20.0,
            capacity=10_000,
            dropped=0,
            version="0.1.0",
            missed=0,
        ),
        "the last will": Status(_BOOT, False, _AT),
    },
}


@click.command()
@root_option
def asyncapi(root: str) -> None:
    """Print the AsyncAPI 3 document of the topics, as JSON.

    It describes a device: the messages that it sends and receives. A consumer
    receives what a device sends.
    """
    click.echo(json.dumps(document(topics_of(root)), indent=2, ensure_ascii=False))


def document(topics: Topics) -> Schema:
    """The document for the topics under one root."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "facewire",
            "version": f"{WIRE_VERSION}.0.0",
            "description": "Events of face-recognition boxes, over MQTT 3.1.1 in clean sessions. One map for each message: msgpack with text as str "
            "and photographs as bin, or the same as JSON (UTF-8) for a device that cannot do msgpack; it is answered in JSON. "
            "A receiver ignores keys that it does not know.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/vnd.msgpack",
        "channels": {kind: _channel(kind, topics) for kind in KINDS},
        "operations": {f"{'receive' if kind == 'ack' else 'send'}{kind.title()}": _operation(kind) for kind in KINDS},
        "components": {
            "messages": {kind: _message(kind) for kind in KINDS},
            "schemas": {cls.__name__: _object(cls) for cls in (*_CLASSES.values(), Event, Rejected, Origin)},
        },
    }


def _channel(kind: Kind, topics: Topics) -> Schema:
    return {
        "address": f"{topics.prefix}/{{device}}/{kind}",
        "description": _TOPICS[kind],
        "messages": {kind: {"$ref": f"#/components/messages/{kind}"}},
        "parameters": {"device": {"description": "The device's name: 1 to 64 of A-Z a-z 0-9 . _ -, a letter or digit first."}},
    }


def _operation(kind: Kind) -> Schema:
    operation: Schema = {
        "action": "receive" if kind == "ack" else "send",
        "channel": {"$ref": f"#/channels/{kind}"},
        "messages": [{"$ref": f"#/channels/{kind}/messages/{kind}"}],
        "bindings": {"mqtt": {"qos": QOS[kind], "retain": kind == "status", "bindingVersion": "0.2.0"}},
    }
    if kind == "history":
        operation["reply"] = {"channel": {"$ref": "#/channels/ack"}, "messages": [{"$ref": "#/channels/ack/messages/ack"}]}
    return operation


def _message(kind: Kind) -> Schema:
    message: Schema = {
        "title": _CLASSES[kind].__name__,
        "payload": {"$ref": f"#/components/schemas/{_CLASSES[kind].__name__}"},
        "examples": [{"name": name, "payload": to_map(example)} for name, example in _EXAMPLES[kind].items()],
    }
    if kind in {"history", "ack"}:
        key = "key" if kind == "ack" else "cursor"
        message["correlationId"] = {"description": "With epoch and boot, the batch key.", "location": f"$message.payload#/{key}"}
    return message


def _object(cls: type) -> Schema:
    hints = {name: hint for name, hint in get_type_hints(cls).items() if name not in _NOT_ON_THE_WIRE}
    comments = _comments(cls)
    return {
        "type": "object",
        "description": (inspect.getdoc(cls) or "").partition(" A named tuple")[0],
        "required": [name for name, hint in hints.items() if _is_required(cls, name, hint)],
        "properties": {name: _property(cls, name, hint, comments) for name, hint in hints.items()},
    }


def _is_required(cls: type, name: str, hint: Any) -> bool:
    """Whether a field has no default. `Event` has no defaults: its optional fields may be None."""
    if cls is Event:
        return type(None) not in get_args(hint)
    return inspect.signature(cls).parameters[name].default is inspect.Parameter.empty


def _property(cls: type, name: str, hint: Any, comments: dict[str, str]) -> Schema:
    value = _value(name, hint)
    if "$ref" in value:  # beside which nothing counts
        return value
    if cls is Rejected and type(None) in get_args(hint):
        value["type"] = [value["type"], "null"]
    return {"description": comments.get(name) or _WORDS[name], **value}


def _value(name: str, hint: Any) -> Schema:
    if name in {"epoch", "boot"}:
        return {"type": "string", "pattern": "^[0-9A-Fa-f]{16}$"}
    if get_origin(hint) in {Union, types.UnionType}:
        hint = next(kind for kind in get_args(hint) if kind is not type(None))
    if get_origin(hint) in {tuple, Sequence}:
        limit = {"events": MAX_BATCH_EVENTS, "origins": MAX_ORIGINS}.get(name)
        most = {} if limit is None else {"maxItems": limit}
        return {"type": "array", "items": _value("", get_args(hint)[0]), **most}
    if hint is int:
        return {"type": "integer", "minimum": _LEAST.get(name, 0), "maximum": MAX_INT}
    if isinstance(hint, TypeVar):  # of a batch, the form of its events
        hint = Event
    if hint in {Event, Rejected, Origin}:
        return {"$ref": f"#/components/schemas/{hint.__name__}"}
    return {"type": {str: "string", float: "number", bool: "boolean"}[hint]}


def _comments(cls: type) -> dict[str, str]:
    """The `#:` comments above the fields of a class, or of the class that it is made of."""
    ours = [each for each in reversed(cls.__mro__) if each.__module__.startswith("facewire.")]
    found = [pair for each in ours for pair in re.findall(r"((?:^ +#: .*\n)+) +(\w+):", inspect.getsource(each), re.MULTILINE)]
    return {name: " ".join(re.findall(r"#: (.*)", comment)) for comment, name in found}
