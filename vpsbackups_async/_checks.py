"""Checks of arguments before anything is sent; each raises a `ValueError` that names the value."""

import inspect
import sys
from datetime import timedelta
from typing import Final

_LONGEST: Final = timedelta(days=365_000)
"""Longer ones reach beyond the dates that a datetime can hold."""


def check_int(name: str, value: object, least: int = 1) -> int:
    """The value as a plain int; raises `ValueError` unless it is an int of at least `least`.

    A bool is refused: `True` as an id is a mistake. A subclass of int, such as an enum member, is
    converted, because it may print as other text and the value may become part of a path.
    """
    if type(value) is int and value >= least:
        return value
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        wanted = "a positive int" if least == 1 else f"an int of at least {least}"
        raise ValueError(f"{name} must be {wanted}, not {value!r}")
    return int(value)


def check_number(
    name: str, value: object, *, above: float | None = None, unit: str = "number of seconds"
) -> float:
    """The value itself; raises `ValueError` unless it is a finite number of zero or more.

    With `above`, the number must be greater than that instead. `unit` names the kind of number in
    the message.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not value <= sys.float_info.max  # also refuses NaN, and an int too large for a float
        or (value < 0 if above is None else value <= above)
    ):
        wanted = "zero or more" if above is None else f"above {above:g}"
        raise ValueError(f"{name} must be a finite {unit}, {wanted}, not {value!r}")
    return value


def check_description(value: object) -> None:
    """Raise `ValueError` unless the value can be the description of a backup."""
    if not isinstance(value, str | None):
        raise ValueError(f"description must be a str or None, not {value!r}")


def check_duration(name: str, value: object) -> timedelta:
    """The value itself; raises `ValueError` unless it is a timedelta above zero, to 1,000 years."""
    if not isinstance(value, timedelta) or value <= timedelta(0):
        raise ValueError(f"{name} must be a timedelta of more than zero, not {value!r}")
    if value > _LONGEST:
        raise ValueError(f"{name} must be a timedelta of at most 365,000 days, not {value!r}")
    return value


def check_plain_function(name: str, value: object) -> None:
    """Raise `ValueError` unless the value can be called and is no coroutine function."""
    check_callable(name, value)
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(
        getattr(value, "__call__", None)  # noqa: B004  # an object whose call is a coroutine
    ):
        raise ValueError(f"{name} must be a plain function, not the coroutine function {value!r}")


def check_callable(name: str, value: object) -> None:
    """Raise `ValueError` unless the value can be called."""
    if not callable(value):
        raise ValueError(f"{name} must be callable, not {value!r}")


def check_coroutine_function(name: str, value: object) -> None:
    """Raise `ValueError` unless calling the value, or its `__call__`, gives a coroutine."""
    called = value.__call__ if callable(value) else None
    if not inspect.iscoroutinefunction(value) and not inspect.iscoroutinefunction(called):
        raise ValueError(f"{name} must be a coroutine function, not {value!r}")
