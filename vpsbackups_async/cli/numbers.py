"""Numbers in arguments: plain decimal digits; Python takes more, and cyclopts rounds fractions."""

import re
from collections.abc import Sequence
from typing import Any, Final

from cyclopts import Parameter, Token
from cyclopts.exceptions import CoercionError

__all__ = ["NUMBER", "WHOLE", "is_whole"]

_WHOLE: Final = re.compile(r"-?[0-9]{1,18}")
_NUMBER: Final = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,18})?")


def is_whole(text: str) -> bool:
    """Whether the text is a whole number of plain digits; a minus is taken, to be told of."""
    return _WHOLE.fullmatch(text) is not None


def _whole(kind: Any, tokens: Sequence[Token]) -> int:  # noqa: ARG001  # part of the protocol
    [token] = tokens
    if not is_whole(token.value):
        raise CoercionError(token=token, target_type=int)
    return int(token.value)


def _number(kind: Any, tokens: Sequence[Token]) -> float:  # noqa: ARG001  # part of the protocol
    [token] = tokens
    if not _NUMBER.fullmatch(token.value):
        raise CoercionError(token=token, target_type=float)
    return float(token.value)


WHOLE: Final = Parameter(converter=_whole)
"""Marks an option that takes a whole number."""
NUMBER: Final = Parameter(converter=_number)
"""Marks an option that takes a number, which may have a fraction."""
