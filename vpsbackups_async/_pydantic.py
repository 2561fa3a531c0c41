"""What pydantic is told of the values, so that they serve in its models and in FastAPI.

A core schema is a plain dict, so that nothing of pydantic is imported here. Pydantic calls
`__get_pydantic_core_schema__` when a model or an endpoint names the class:
https://docs.pydantic.dev/latest/concepts/types/#customizing-validation-with-__get_pydantic_core_schema__
"""

from collections.abc import Callable, Mapping
from enum import StrEnum
from types import NoneType
from typing import Any, ClassVar, Final, Self, cast, get_args

import msgspec
from attrs import NOTHING, Attribute, fields

__all__ = ["PydanticText", "PydanticValue"]


class PydanticText(StrEnum):
    """An enum that pydantic makes of a text by calling it, and writes as a text."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> dict[str, Any]:
        """The core schema of the class."""
        return {
            "type": "function-after",
            "function": {"type": "no-info", "function": cls},
            "schema": {"type": "str"},
            "serialization": {"type": "to-string"},
            "metadata": {"pydantic_js_updates": {"examples": [one.value for one in cls]}},
        }


class PydanticValue:
    """An attrs class that pydantic takes as it is, makes of an object, and writes as one.

    If the class or its `_detailed` subclass has a field `extra`, that holds the fields of the
    object that the class does not know; otherwise they are left out.
    """

    __slots__ = ()
    _takes_what_fits: ClassVar[bool] = False
    """Whether `extra` also holds the values that are not of the types of their fields."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> dict[str, Any]:
        """The core schema of the class; `handler` gives those of the types of its fields."""
        read = cls._object_schema(handler, is_written=False)
        return {
            "type": "json-or-python",
            "ref": f"{cls.__module__}.{cls.__qualname__}:{id(cls)}",
            "json_schema": {
                "type": "function-after",
                "function": {"type": "no-info", "function": cls._of_fields},
                "schema": read,
            },
            # Not for JSON: a strict reading would then refuse its texts as times.
            "python_schema": {
                "type": "function-wrap",
                "function": {"type": "no-info", "function": cls._taken_or_made},
                "schema": read,
            },
            "serialization": {
                "type": "function-plain",
                "function": cls._as_fields,
                "return_schema": cls._object_schema(handler, is_written=True),
            },
        }

    @classmethod
    def _object_schema(cls, handler: Any, *, is_written: bool) -> dict[str, Any]:
        """The schema of the object; one that is read may leave out what may be null."""
        detailed = cls._detailed()
        return {
            "type": "typed-dict",
            "cls": cls,
            "extra_behavior": "allow" if _has_extra(detailed) else "ignore",
            "fields": {
                name: {
                    "type": "typed-dict-field",
                    "schema": cls._field_schema(one, handler),
                    "required": one.default is NOTHING and (is_written or not _may_be_none(one)),
                }
                for name, one in _known(detailed).items()
            },
        }

    @classmethod
    def _field_schema(cls, field: "Attribute[Any]", handler: Any) -> Any:
        schema = handler.generate_schema(field.type)
        if field.default is NOTHING or not cls._takes_what_fits:
            return schema
        return {
            "type": "union",
            "mode": "left_to_right",
            # Pydantic would take a number for a time.
            "choices": [_as_unfit(kind) for kind in _NUMBERS]
            + [schema, _as_unfit({"type": "any"})],
            "serialization": {"type": "any"},
            "metadata": {"pydantic_js_functions": [lambda _, describe: describe(schema)]},
        }

    @classmethod
    def _detailed(cls) -> "type[PydanticValue]":
        """The class for objects with more fields than this one has."""
        return cls

    @classmethod
    def _taken_or_made(cls, value: object, validate: Callable[[object], Any]) -> Self:
        """The value itself, or the one that an object with its fields stands for."""
        return value if isinstance(value, cls) else cls._of_fields(validate(value))

    @classmethod
    def _of_fields(cls, values: Mapping[str, Any]) -> Self:
        """The value that an object with these fields stands for."""
        own, known = _known(cls), _known(cls._detailed())
        unfit = {name: one.value for name, one in values.items() if isinstance(one, _Unfit)}
        values = {name: one for name, one in values.items() if name not in unfit}
        extra = {name: value for name, value in values.items() if name not in known} | {
            name: value for name, value in unfit.items() if value is not None
        }
        more = {name for name in known if name not in own and values.get(name) is not None}
        # A value inside may have fields of its own that the class does not know.
        inside = any(getattr(value, _EXTRA, None) for value in values.values())
        made: Any = cls._detailed() if extra or more or inside else cls
        given = {
            name: values.get(name)
            for name, one in _known(made).items()
            if name in values or one.default is NOTHING
        }
        return cast("Self", made(**given, **({_EXTRA: extra} if _has_extra(made) else {})))

    @classmethod
    def _as_fields(cls, value: Any) -> dict[str, Any]:
        """The fields of the object that stands for the value."""
        if not isinstance(value, cls):
            raise TypeError(f"expected a {cls.__name__}, not {value!r}")
        own = {name: getattr(value, name) for name in _known(cls)}
        more = {name: getattr(value, name) for name in _known(cls._detailed()) if name not in own}
        present = {name: one for name, one in more.items() if one is not None}
        return own | present | dict(getattr(value, _EXTRA, {}))


_EXTRA: Final = "extra"


class _Unfit(msgspec.Struct, frozen=True):
    """A value that is not of the type of its field."""

    value: object


_NUMBERS: Final = ({"type": "int", "strict": True}, {"type": "float", "strict": True})


def _as_unfit(schema: dict[str, Any]) -> dict[str, Any]:
    function = {"type": "no-info", "function": _Unfit}
    return {"type": "function-after", "function": function, "schema": schema}


def _known(cls: Any) -> "dict[str, Attribute[Any]]":
    """The fields of the class, but for the one that holds unknown ones."""
    return {one.name: one for one in fields(cls) if one.name != _EXTRA}


def _may_be_none(field: "Attribute[Any]") -> bool:
    return NoneType in get_args(field.type)


def _has_extra(cls: Any) -> bool:
    return any(one.name == _EXTRA for one in fields(cls))
