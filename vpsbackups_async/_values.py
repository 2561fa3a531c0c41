"""The `==`, hash and repr of values, written once.

attrs writes and compiles these three for each class, which is half of the time that it takes to
make one, and much of `import vpsbackups_async`. Values that are rarely compared have these instead:
they do the same by the fields, but more slowly.
"""

from typing import Any, cast

from attrs import Attribute, fields

__all__ = ["Value"]


class Value:
    """The base of an attrs class with `eq=False, repr=False` that has what attrs would give it."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        compared = (one.name for one in _fields(self) if one.eq)
        return all(getattr(self, name) == getattr(other, name) for name in compared)

    def __hash__(self) -> int:
        hashed = (one for one in _fields(self) if (one.eq if one.hash is None else one.hash))
        return hash((type(self), *(getattr(self, one.name) for one in hashed)))

    def __repr__(self) -> str:
        shown = (
            f"{one.name}={(one.repr if callable(one.repr) else repr)(getattr(self, one.name))}"
            for one in _fields(self)
            if one.repr
        )
        return f"{type(self).__qualname__}({', '.join(shown)})"


def _fields(value: object) -> "tuple[Attribute[Any], ...]":
    cls: Any = type(value)
    return cast("tuple[Attribute[Any], ...]", fields(cls))
