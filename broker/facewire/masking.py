"""URLs as people and logs may see them: without their secrets. Pure.

    postgresql://USER:PASSWORD@HOST/NAME?sslmode=require&sslpassword=SECRET&…
    postgresql://USER:***@HOST/NAME?sslmode=require&sslpassword=***

Nobody knows where a secret ends that has an `@`, a `/` or an `&` in it, although it must not. So
more is masked rather than less.
"""

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote

#: The first parameter that is secret, and all behind it; its name may be escaped.
_PARAMETER: Final = re.compile(r"(?<=[?&])([^=&]*(?:p|%70)(?:a|%61)(?:s|%73){2}[^=&]*|[^=&]*secret[^=&]*)=(.*)", re.DOTALL | re.IGNORECASE)
#: From the first colon to the last at sign.
_USER: Final = re.compile(r"(?<=://)([^:/@]*):(.*)@", re.DOTALL)


def without_password(text: str) -> str:
    """The text, with `***` in the place of a URL's password and of its secret parameters."""
    return _USER.sub(r"\1:***@", _PARAMETER.sub(r"\1=***", text))


def without_secrets_of(url: str, text: str) -> str:
    """Another program's text about a URL, with `***` for the URL's secrets in any spelling."""
    for secret in sorted(_secrets(url), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def _secrets(url: str) -> Iterator[str]:
    parameter, user = _PARAMETER.search(url), _USER.search(_PARAMETER.sub("", url))
    values = [*(parameter[2].split("&") if parameter else ()), *((user[2],) if user else ())]
    for value in filter(None, values):
        yield from {value, unquote(value)}
