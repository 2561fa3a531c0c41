"""What the library says in words of Python, said in those of the shell."""

import re
from typing import Final

from vpsbackups_async._transport.waits import CLOSED

__all__ = ["for_shell"]

_POLICY: Final = re.compile(r"\bRetention\(((?:[^()]|\([^()]*\))*)\)")
_COUNT: Final = re.compile(r"\b(last|hourly|daily|weekly|monthly|yearly)=(\d+)")
_WITHIN: Final = re.compile(r"\bwithin=datetime\.timedelta\(([^()]*)\)")
_PART: Final = re.compile(r"(days|seconds)=(\d+)")
_SECONDS: Final = {"days": 86_400, "seconds": 1}


def for_shell(text: str) -> str:
    """The text with the options of a policy for its `Retention`, and no advice about a client."""
    return _POLICY.sub(_options, text).replace(CLOSED, "the command was ended meanwhile")


def _options(policy: re.Match[str]) -> str:
    """The options that say what a policy keeps; its zone and job are those that were given."""
    said = [f"--keep-{rule} {count}" for rule, count in _COUNT.findall(policy[1])]
    if within := _WITHIN.search(policy[1]):
        seconds = sum(int(count) * _SECONDS[unit] for unit, count in _PART.findall(within[1]))
        hours, rest = divmod(seconds, 3600)
        said.append(f"--keep-within {f'{seconds}s' if rest else f'{hours}h'}")
    return " ".join(said)
