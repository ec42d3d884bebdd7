"""The bodies of answers: JSON, lists with an end, pages of events, and errors."""

import itertools
import json
from collections.abc import Iterable
from typing import Any, Final

from starlette.responses import JSONResponse, Response

from facewire.plain import plain
from facewire_platform.history.events import Place
from facewire_platform.history.reader import Row

#: A page of events ends with the event that passes this size in JSON: photographs are large.
MAX_BYTES: Final = 4 * 1024 * 1024


def json_answer(value: Any) -> Response:
    """Any value, even one that JSON cannot express as it is (`plain`)."""
    return _json_text(_to_json(value))


def list_answer(name: str, rows: Iterable[Row], limit: int, **more_fields: Any) -> Response:
    """The first `limit` rows under a name, and whether there are more."""
    shown = list(itertools.islice(rows, limit + 1))
    return json_answer({**more_fields, name: shown[:limit], "more": len(shown) > limit})


def events_answer(rows: Iterable[Row], limit: int) -> Response:
    """One page of events, and the place after which the next page begins."""
    texts: list[str] = []
    last, size, following = None, 0, None
    for row in rows:
        if len(texts) == limit or size > MAX_BYTES:
            following = last
            break
        texts.append(_to_json(row))
        last, size = Place.of(row), size + len(texts[-1])
    return _json_text(f'{{"events":[{",".join(texts)}],"next":{_to_json(following and str(following))}}}')


def error_answer(status: int, text: str, headers: Any = None) -> Response:
    """Every error is {"error": one sentence}."""
    return JSONResponse({"error": text}, status, headers)


def _to_json(value: Any) -> str:
    return json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"))


def _json_text(text: str) -> Response:
    return Response(text, media_type="application/json")
