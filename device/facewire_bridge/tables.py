"""A TOML table: each key must be known, and each value have its type. Errors name them."""

import difflib
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

from facewire.errors import FacewireError

T = TypeVar("T")


class SettingsError(FacewireError):
    """A settings file cannot be used; names the file, the table, the key and the value."""


class Table:
    """A table of the file. Each setting that is still in it when the `with` ends is unknown."""

    def __init__(self, values: dict[str, Any], where: str, folder: Path) -> None:
        self._values, self._where, self._folder = dict(values), where, folder
        self._known: set[str] = set()

    def __enter__(self) -> "Table":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._values:
            key = sorted(self._values)[0]
            near = difflib.get_close_matches(key, self._known, n=1)
            raise SettingsError(f"{self._where}: unknown setting {key!r}" + (f". Did you mean {near[0]!r}?" if near else ""))

    def error(self, key: str, reason: str) -> SettingsError:
        return SettingsError(f"{self._where}: {key} {reason}")

    def has(self, keys: Iterable[str]) -> bool:
        return not self._values.keys().isdisjoint(keys)

    def pop(self, key: str, kind: type[T], default: T) -> T:
        self._known.add(key)
        value = self._values.pop(key, default)
        if kind is float and type(value) is int:
            value = float(value)
        if value is not default and type(value) is not kind:
            raise self.error(key, f"{value!r} is not {_NAMES[kind]}")
        return value

    def pop_optional(self, key: str, kind: type[T]) -> T | None:
        if key in self._values:
            return self.pop(key, kind, kind())
        self._known.add(key)
        return None

    def parse(self, key: str, read: Callable[[str], T], default: str) -> T:
        text = self.pop(key, str, default)
        try:
            return read(text)
        except ValueError as exc:
            raise self.error(key, f"{text!r}: {exc}") from exc

    def secret(self, key: str) -> str | None:
        """A secret, or the first line of the file that `KEY_file` names; never shown."""
        secret, path = self.pop_optional(key, str), self.pop_optional(f"{key}_file", str)
        if secret is not None and path is not None:
            raise self.error(key, f"and {key}_file are both given")
        if path is None:
            return secret
        try:
            return (self._folder / os.path.expandvars(path)).read_text().splitlines()[0]
        except (OSError, UnicodeDecodeError, IndexError) as exc:
            raise self.error(f"{key}_file", f"{path!r} cannot be read: {getattr(exc, 'strerror', None) or 'it is empty'}") from exc

    def table(self, key: str) -> "Table":
        return Table(self.pop(key, dict, {}), f"{self._where}: [{key}]", self._folder)

    def tables(self, key: str) -> list[tuple[str, "Table"]]:
        found = self.pop(key, dict, {})
        for name, value in found.items():
            if not isinstance(value, dict):
                raise self.error(f"{key}.{name}", f"{value!r} is not a table")
        return [(name, Table(value, f"{self._where}: {key} {name!r}", self._folder)) for name, value in found.items()]


_NAMES: Final[dict[type, str]] = {str: "text", int: "an integer", float: "a number", bool: "true or false", list: "a list", dict: "a table"}
