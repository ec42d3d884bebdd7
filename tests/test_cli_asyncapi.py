"""docs/asyncapi.json agrees with the contract's types, with AsyncAPI and with our decoder."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import jsonschema
import pytest
from click.testing import CliRunner

from facewire import codec
from facewire.codec import Format
from facewire.errors import EventError, FacewireError
from facewire.events import Event
from facewire.messages import Batch, Match, decode, to_map
from facewire.topics import KINDS, QOS, Kind, Topics
from facewire_cli import asyncapi
from facewire_cli.main import cli

FOLDER: Final = Path(__file__).parent
DOCUMENT: Final[dict[str, Any]] = asyncapi.document(Topics())
SCHEMAS: Final[dict[str, Any]] = DOCUMENT["components"]["schemas"]
EXAMPLES: Final[list[tuple[Kind, dict[str, Any]]]] = [
    (kind, example["payload"]) for kind in KINDS for example in DOCUMENT["components"]["messages"][kind]["examples"]
]


def accepts(name: str, payload: Any) -> bool:
    """Whether a payload is as the document says."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return bool(jsonschema.Draft7Validator(schema).is_valid(payload))


def decodes(kind: Kind, payload: dict[str, Any], fmt: Format) -> bool:
    """Whether our decoder takes a payload, with all of its events."""
    try:
        decoded = decode(kind, codec.encode(payload, fmt))
    except FacewireError:
        return False
    return not (isinstance(decoded, Batch) and decoded.bad)


def mutants(fields: dict[str, Any], schema: dict[str, Any]) -> Iterator[tuple[dict[str, Any], bool]]:
    """A payload with one field changed, and whether the document still allows it."""
    for name, rule in schema["properties"].items():
        yield {key: value for key, value in fields.items() if key != name}, name not in schema["required"]
        yield fields | {name: {"text": "list", "a": 1}.get(rule.get("type"), [])}, rule.get("type") == "array"
        if "minimum" in rule:
            yield fields | {name: rule["minimum"]}, True
            yield fields | {name: rule["minimum"] - 1}, False
            yield fields | {name: "1"}, False
            yield fields | {name: True}, False
        if "pattern" in rule:
            yield fields | {name: "1234"}, False
        if rule.get("type") == "number":
            yield fields | {name: 1}, True
            yield fields | {name: "1"}, False
    yield fields | {"unheard_of": {"by": "us"}}, True


def test_the_document_in_docs_is_the_one_that_the_command_prints() -> None:
    printed = CliRunner().invoke(cli, ["asyncapi"])
    assert printed.exit_code == 0
    assert (FOLDER.parent / "docs" / "asyncapi.json").read_text(encoding="utf-8") == printed.stdout, "stale: run `make asyncapi`"


def test_it_is_asyncapi_3_by_the_official_schema() -> None:
    schema = json.loads(gzip.decompress((FOLDER / "data" / "asyncapi-3.0.0.schema.json.gz").read_bytes()))
    validator = jsonschema.Draft7Validator(schema)
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(DOCUMENT)] == []
    assert not validator.is_valid(DOCUMENT | {"channels": {"match": {"adress": "x"}}})


def test_every_reference_leads_somewhere() -> None:
    def references(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            yield from ([node["$ref"]] if "$ref" in node else [])
            node = list(node.values())
        for child in node if isinstance(node, list) else ():
            yield from references(child)

    for reference in references(DOCUMENT):
        found: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]


def test_the_topics_and_their_qos_are_the_contracts() -> None:
    topics = Topics("site/a")
    document = asyncapi.document(topics)
    assert {kind: document["channels"][kind]["address"].replace("{device}", "d") for kind in KINDS} == {
        kind: topics.of("d", kind) for kind in KINDS
    }
    bindings = {
        operation["channel"]["$ref"].rpartition("/")[2]: operation["bindings"]["mqtt"] for operation in document["operations"].values()
    }
    assert {kind: binding["qos"] for kind, binding in bindings.items()} == QOS
    assert [kind for kind, binding in bindings.items() if binding["retain"]] == ["status"]


def test_a_bad_root_is_a_usage_error() -> None:
    result = CliRunner().invoke(cli, ["asyncapi", "--root", "a/+"])
    assert result.exit_code == 2
    assert "a/+" in result.stderr


def test_no_description_is_left_over() -> None:
    used = {(name, rule["description"]) for schema in SCHEMAS.values() for name, rule in schema["properties"].items() if "$ref" not in rule}
    assert {(name, words) for name, words in asyncapi._WORDS.items()} <= used


@pytest.mark.parametrize(("kind", "payload"), EXAMPLES)
@pytest.mark.parametrize("fmt", Format)
def test_an_example_is_as_documented_and_as_our_decoder_reads_it(kind: Kind, payload: dict[str, Any], fmt: Format) -> None:
    assert accepts(DOCUMENT["components"]["messages"][kind]["title"], payload)
    decoded = decode(kind, codec.encode(payload, fmt))
    assert to_map(decoded) == payload


@pytest.mark.parametrize("kind", KINDS)
def test_the_document_and_our_decoder_refuse_the_same(kind: Kind) -> None:
    name = DOCUMENT["components"]["messages"][kind]["title"]
    for payload in (payload for of, payload in EXAMPLES if of == kind):
        for mutant, good in mutants(payload, SCHEMAS[name]):
            shown = json.dumps(mutant, ensure_ascii=False)[:200]
            assert (accepts(name, mutant), shown) == (good, shown)
            if in_order(mutant):
                assert [(decodes(kind, mutant, fmt), shown) for fmt in Format] == [(good, shown)] * 2


def in_order(fields: dict[str, Any]) -> bool:
    """Whether the seqs of a batch agree with one another, which JSON schema cannot tell."""
    after, cursor, head = (fields.get(name) for name in ("after", "cursor", "head"))
    if type(after) is not int or type(cursor) is not int or type(head) is not int:
        return True
    last = max((event["seq"] for event in fields.get("events") or ()), default=after)
    return after <= last <= cursor <= head and (last > after or cursor == after)


def test_an_event_that_the_document_refuses_is_refused_alone() -> None:
    match = next(payload for kind, payload in EXAMPLES if kind == "match")
    batch = next(payload for kind, payload in EXAMPLES if kind == "history") | {"after": 0}
    assert isinstance(decode("match", codec.encode(match)), Match)
    for event, good in mutants(match["event"], SCHEMAS[Event.__name__]):
        shown = json.dumps(event, ensure_ascii=False)
        assert (accepts("Event", event), shown) == (good, shown)
        assert (decodes("match", match | {"event": event}, Format.JSON), shown) == (good, shown)
        assert (decodes("history", batch | {"events": [event]}, Format.MSGPACK), shown) == (good, shown)
    with pytest.raises(EventError, match="score"):
        decode("match", codec.encode(match | {"event": {**match["event"], "score": None}}))
