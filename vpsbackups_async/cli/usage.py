"""The words for arguments that cyclopts refuses."""

from typing import Final

from cyclopts.exceptions import (
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    UnusedCliTokensError,
)

__all__ = ["words_of"]

_WANTED: Final[dict[object, str]] = {
    int: "takes a whole number, not {value!r}",
    float: "takes a number such as 20 or 0.5, not {value!r}",
    bool: "takes no value, and has {value!r}",
}


def words_of(error: CycloptsError) -> str:
    """What is wrong with the arguments, in the terms of a shell; cyclopts speaks of Python's."""
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"unexpected: {' '.join(map(repr, error.unused_tokens))}"
    if isinstance(error, CoercionError) and error.token is not None and error.msg is None:
        wanted = _WANTED.get(error.target_type)
        if wanted is not None and error.token.keyword is not None:
            return f"{error.token.keyword} {wanted.format(value=error.token.value)}"
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        argument = error.argument
        if argument.index is not None:
            return f"{argument.parameter.metavar or argument.name} is missing"
        if error.keyword is not None:
            return f"{error.keyword} takes {argument.parameter.metavar or 'a value'}"
        return f"{argument.name} {argument.parameter.metavar or ''}".rstrip() + " is missing"
    return str(error)
