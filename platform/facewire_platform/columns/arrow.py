"""Hands columns of Python values to DuckDB, by Arrow's C interface, which needs no other library.

https://arrow.apache.org/docs/format/CStreamInterface.html. DuckDB's own interfaces take a tenth as
many rows a second.

    ArrowTable ──__arrow_c_stream__──▶ stream ──get_schema──▶ names and types
                                              ──get_next────▶ one array of structs, then the end

The array's buffers are ours.
"""

import ctypes
import itertools
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

_Release = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class _Schema(ctypes.Structure):
    _fields_ = (
        ("format", ctypes.c_char_p),
        ("name", ctypes.c_char_p),
        ("metadata", ctypes.c_char_p),
        ("flags", ctypes.c_int64),
        ("n_children", ctypes.c_int64),
        ("children", ctypes.c_void_p),
        ("dictionary", ctypes.c_void_p),
        ("release", ctypes.c_void_p),
        ("private_data", ctypes.c_void_p),
    )


class _Array(ctypes.Structure):
    _fields_ = (
        ("length", ctypes.c_int64),
        ("null_count", ctypes.c_int64),
        ("offset", ctypes.c_int64),
        ("n_buffers", ctypes.c_int64),
        ("n_children", ctypes.c_int64),
        ("buffers", ctypes.c_void_p),
        ("children", ctypes.c_void_p),
        ("dictionary", ctypes.c_void_p),
        ("release", ctypes.c_void_p),
        ("private_data", ctypes.c_void_p),
    )


_Get = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_Error = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)


class _Stream(ctypes.Structure):
    _fields_ = (
        ("get_schema", _Get),
        ("get_next", _Get),
        ("get_last_error", _Error),
        ("release", ctypes.c_void_p),
        ("private_data", ctypes.c_void_p),
    )


def _release(kind: type[ctypes.Structure]) -> Any:
    """The callback of a consumer that is done: it marks the struct; the memory is Python's."""

    def mark(address: int) -> None:
        kind.from_address(address).release = None

    return _Release(mark)


_RELEASE: Final = {kind: _release(kind) for kind in (_Schema, _Array, _Stream)}
_ADDRESS: Final = {kind: ctypes.cast(function, ctypes.c_void_p).value for kind, function in _RELEASE.items()}
_NULLABLE: Final = 2
#: Arrow's format of a column, by the type code of `array`; texts have 64-bit offsets.
_FORMATS: Final = {"q": b"l", "i": b"i", "d": b"g", "u": b"U"}

_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


class ArrowTable:
    """Columns by name. Keep it while DuckDB reads it; it may be read any number of times.

    Args:
        types: each column's type: `q` and `i` are integers of 64 and 32 bits, `d` floats, `u`
            texts, which may be None.
        columns: the values, in the order of `types`; all columns have the same length.
    """

    def __init__(self, types: Mapping[str, str], columns: Sequence[Sequence[Any]]) -> None:
        #: All that C has addresses of.
        self._held: list[Any] = []
        length = len(columns[0])
        arrays = [self._array(code, column) for code, column in zip(types.values(), columns, strict=True)]
        schemas = [self._schema(_FORMATS[code], name.encode()) for name, code in types.items()]
        pointers = self._pointers([0]), self._pointers(map(ctypes.addressof, arrays))
        self._whole = _Array(length, 0, 0, 1, len(arrays), *pointers, None, _ADDRESS[_Array])
        self._root = self._schema(b"+s", b"", list(map(ctypes.addressof, schemas)))

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """A stream of one array, as a capsule."""
        left = [self._whole]

        def get_schema(_: int, out: int) -> int:
            return _give(self._root, out)

        def get_next(_: int, out: int) -> int:
            return _give(left.pop() if left else _Array(), out)

        stream = _Stream(_Get(get_schema), _Get(get_next), _Error(lambda _: None), _ADDRESS[_Stream])
        self._held.append(stream)
        return _new_capsule(ctypes.addressof(stream), b"arrow_array_stream", None)

    def _schema(self, form: bytes, name: bytes, children: Sequence[int] = ()) -> _Schema:
        pointers = self._pointers(children) if children else None
        schema = _Schema(form, name, None, _NULLABLE, len(children), pointers, None, _ADDRESS[_Schema])
        self._held.append(schema)
        return schema

    def _array(self, code: str, column: Sequence[Any]) -> _Array:
        nulls, buffers = 0, []
        if code == "u":
            nulls = column.count(None)
            buffers = [_bits(column) if nulls else b"", *_texts([text or "" for text in column] if nulls else column)]
        else:
            buffers = [b"", array(code, column).tobytes()]
        self._held.append(buffers)
        addresses = [ctypes.cast(ctypes.c_char_p(buffer), ctypes.c_void_p).value or 0 if buffer else 0 for buffer in buffers]
        made = _Array(len(column), nulls, 0, len(buffers), 0, self._pointers(addresses), None, None, _ADDRESS[_Array])
        self._held.append(made)
        return made

    def _pointers(self, addresses: Any) -> int:
        found = list(addresses)
        pointers = (ctypes.c_void_p * len(found))(*found)
        self._held.append(pointers)
        return ctypes.addressof(pointers)


def _texts(column: Sequence[str]) -> tuple[bytes, bytes]:
    """The offset of each text and of the end, and all texts as one."""
    joined = "".join(column)
    sizes: Iterable[int] = map(len, column) if joined.isascii() else map(len, map(str.encode, column))
    return array("q", itertools.accumulate(sizes, initial=0)).tobytes(), joined.encode()


def _bits(column: Sequence[Any]) -> bytes:
    """A bit for each value that is there, the first one lowest."""
    text = "".join("0" if value is None else "1" for value in reversed(column))
    return int(text, 2).to_bytes((len(column) + 7) // 8, "little")


def _give(struct: ctypes.Structure, out: int) -> int:
    """Copy a struct to where the consumer wants it; it is told to release the copy."""
    ctypes.memmove(out, ctypes.addressof(struct), ctypes.sizeof(struct))
    return 0
