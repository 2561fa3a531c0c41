"""Canaries, and the search for them in everything that a program may write down.

A canary stands in no local variable of a test, for tracebacks with locals are part of what is
searched.
"""

import base64
import contextlib
import html
import logging
import pickle
import re
import traceback
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import unquote

CANARY: Final = "vps_canary0123456789abcdef"
"""The token."""
PROXY_CANARY: Final = "pr0xy/Canary+98765"
"""The password of a proxy."""
REDIS_CANARY: Final = "r3dis-canary-4f1d9a"
"""The password of a Redis server."""

_IN_A_ROW: Final = 12
"""So many characters of a canary in a row must show nowhere."""


def _pieces() -> Iterator[str]:
    for canary in (CANARY, PROXY_CANARY, REDIS_CANARY):
        for at in range(len(canary) - _IN_A_ROW + 1):
            yield canary[at : at + _IN_A_ROW].lower()
        for shift in range(3):
            encoded = base64.b64encode(b"x" * shift + canary.encode()).decode().rstrip("=")[4:-1]
            for at in range(len(encoded) - 15):  # sixteen stand for twelve
                yield encoded[at : at + 16].lower()


_PIECES: Final = tuple(dict.fromkeys(_pieces()))
_CODE: Final = re.compile(r"\\+(?:u|U0000)([0-9a-fA-F]{4})|\\+x([0-9a-fA-F]{2})")


def holds(text: str | bytes) -> bool:
    """Whether the text holds a canary, twelve characters of it or more, escaped or not."""
    plain = text.decode("latin-1") if isinstance(text, bytes) else text
    for _ in range(3):
        lower = plain.lower()
        if any(piece in lower for piece in _PIECES):
            return True
        escaped, plain = plain, _unescaped(plain)
        if plain == escaped:
            return False
    return False


def _unescaped(text: str) -> str:
    coded = _CODE.sub(lambda found: chr(int(found[1] or found[2], 16)), text)
    return unquote(html.unescape(coded))


def texts_of(thing: object, place: str, seen: set[int]) -> Iterator[tuple[str, str | bytes]]:
    """Everything that shows of an object and of what it is made of, each with its place."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    yield f"{place} repr", repr(thing)
    if isinstance(thing, BaseException):
        yield from texts_of_error(thing, place, seen)
    if isinstance(thing, str | bytes | int | float | type(None) | type):
        return
    yield f"{place} str", str(thing)
    if isinstance(thing, Mapping):
        for key, value in thing.items():
            yield from texts_of(key, f"{place} key", seen)
            yield from texts_of(value, f"{place}[{key!r}]", seen)
    elif isinstance(thing, list | tuple | set | frozenset):
        for number, value in enumerate(thing):
            yield from texts_of(value, f"{place}[{number}]", seen)
    names = [*getattr(thing, "__dict__", ())]
    for kind in type(thing).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names += [slots] if isinstance(slots, str) else slots
    if type(thing).__module__.startswith(("vpsbackups_async", "asyncio", "builtins")):
        for name in names:
            yield from texts_of(getattr(thing, name, None), f"{place}.{name}", seen)


def texts_of_error(
    error: BaseException, place: str, seen: set[int]
) -> Iterator[tuple[str, str | bytes]]:
    yield f"{place} str", str(error)
    yield f"{place} traceback", "".join(traceback.format_exception(error))
    told = traceback.TracebackException(
        type(error), error, error.__traceback__, capture_locals=True
    )
    yield f"{place} locals", "".join(told.format())
    for name in ("args", "__dict__", "__notes__", "__cause__", "__context__"):
        yield from texts_of(getattr(error, name, None), f"{place}.{name}", seen)
    with contextlib.suppress(TypeError, AttributeError, pickle.PicklingError):
        yield f"{place} pickle", pickle.dumps(error)


def assert_clean(thing: object) -> int:
    """No text of the thing has the canary; how many there were."""
    number = 0
    for place, text in texts_of(thing, type(thing).__name__, set()):
        number += 1
        assert not holds(text), f"a canary shows in {place}"
    return number


class Ear(logging.Handler):
    """Every record of every logger, with its arguments and extras."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.texts += [self.format(record), record.getMessage(), repr(record.args)]
        self.texts += [repr(value) for value in vars(record).values()]
