"""Readable ids for the values of parametrised tests that pytest would number."""

import types
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from datetime import date
from enum import Enum
from functools import partial
from typing import Any

import attrs

LONGEST = 60
"""The maximum number of characters for one value, so that an id fits on a line."""


def name_of(value: object) -> str | None:
    """The id for this value; None leaves it to pytest."""
    if value is None or isinstance(value, bool | int | float | type):
        return None
    name = _name(value).encode("unicode_escape").decode("ascii")
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."


def _name(value: object) -> str:  # noqa: PLR0911
    match value:
        case str():
            return value or "empty"
        case bytes():
            line, _, _ = value.decode("latin-1").partition("\r\n")
            return f"b'{line}'"
        case Enum():
            return str(value.value)
        case date():
            return value.isoformat()
        case BaseException():
            return " ".join(filter(None, (type(value).__name__, str(value))))
        case Mapping():
            return " ".join(f"{key}={_name(part)}" for key, part in value.items()) or "nothing"
        case list() | tuple():
            return " ".join(map(_name, value)) or "nothing"
        case AbstractSet():
            return " ".join(sorted(map(_name, value))) or "nothing"
        case partial():
            return f"partial of {_name(value.func)}"
        case types.MethodType():
            return value.__func__.__qualname__
        case _ if hasattr(value, "__name__"):
            return str(value.__name__)
    if attrs.has(type(value)):
        return " ".join([type(value).__name__, *_changed_fields(value)])
    shown = str(value)
    return type(value).__name__ if " at 0x" in shown else shown


def _changed_fields(value: Any) -> list[str]:
    """The fields of a value that differ from their defaults, as `name=value`."""
    return [
        f"{each.alias}={_name(given)}"
        for each in attrs.fields(type(value))
        if each.repr and (given := getattr(value, each.name)) != each.default
    ]
