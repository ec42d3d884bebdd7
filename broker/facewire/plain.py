"""Any decoded value in a form that JSON can carry: vendors put all kinds into events. Pure."""

import base64
import json
import math
from typing import Any


def plain(value: object) -> Any:
    """Make any decoded value fit for JSON.

    Bytes become base64 text, NaN and infinities null. Keys, and types that JSON lacks, become text.
    Lone surrogates are escaped.
    """
    match value:
        case None | bool() | int():
            return value
        case str():
            return value if value.isascii() else value.encode(errors="backslashreplace").decode()
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {_key(key): plain(item) for key, item in value.items()}
        case bytes():
            return base64.b64encode(value).decode()
    # Not `isinstance`: msgpack's ExtType is a tuple, but no list.
    if type(value) in {list, tuple}:
        return [plain(item) for item in value]  # type: ignore[attr-defined]  # mypy does not follow `type(value) in`
    return plain(str(value))


def _key(key: object) -> str:
    text = plain(key)
    return text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
