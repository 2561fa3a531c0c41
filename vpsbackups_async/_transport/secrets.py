"""Secrets: held so that nothing prints them, and masked in what the server sends back."""

import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from typing import Final, NoReturn, Self, SupportsIndex

from vpsbackups_async.errors import ConfigurationError

__all__ = ["Redactor", "Secret"]

_MASK: Final = "***"
_WINDOW: Final = 12
"""This many characters of a secret in a row are masked; a shorter secret only as a whole."""
_LEAST: Final = 4
"""A secret, or an encoded form of one, that is shorter than this would mask ordinary words."""
_STRIDE: Final = 7
_PROBE: Final = _WINDOW - _STRIDE + 1
"""Of the pieces of this length, `_STRIDE` characters apart, every window holds one."""
_PASSES: Final = 4
"""How many layers of escapes are taken off: `%2576` has two."""


class Secret(str):
    """A str whose repr is masked, so that tracebacks with local variables do not show it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'{_MASK}'"

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a token is not pickled: make the client where it is used")

    @classmethod
    def wrap(cls, value: object) -> "Secret":
        """The value as a secret, without surrounding space; empty if it is no str. Never raises."""
        return cls(value.strip()) if isinstance(value, str) else cls()

    def is_in(self, text: str) -> bool:
        """Whether the text holds all of this secret; False for a very short one."""
        plain = _plain(self)
        return len(plain) >= _WINDOW and plain in _plain(text)

    def checked(self) -> Self:
        """The token itself; raises `ConfigurationError`, without showing it, if it is unusable."""
        if not self:
            raise ConfigurationError(
                "there is no token", hint="Pass token=... (a str) or set VPS_API_TOKEN"
            )
        if not (self.isascii() and self.isprintable()) or " " in self:
            raise ConfigurationError(
                "the token holds a space, a control character or a non-ASCII character: "
                "copy it again from the panel"
            )
        return self


class Redactor:
    """Masks a client's secrets in a text of the server's that enters an error or a log.

    A secret is recognised in any case, escaped as in URLs, JSON, HTML or Python, and in base64, and
    so is any part of it of twelve characters or more.
    """

    __slots__ = ("_all", "_token")

    def __init__(self, token: str = "", *others: str) -> None:
        self._all = _Needles(form for secret in (token, *others) for form in _forms(secret))
        self._token = _Needles(_forms(token) if len(token) >= _WINDOW else ())

    def __repr__(self) -> str:
        return "<Redactor>"

    def __call__(self, text: str) -> str:
        """The text with every secret in it masked."""
        if not self._all.may_be_in(_plain(text)):
            return text
        plain, starts, ends = _mapped(text)
        parts: list[str] = []
        done = 0
        for first, last in sorted(self._all.found_in(plain)):
            start, end = starts[first], ends[last]
            if start > done or not parts:
                parts += (text[done:start], _MASK)
            done = max(done, end)
        return "".join([*parts, text[done:]])

    def finds_token(self, text: str) -> bool:
        """Whether the text holds the token or a part of it; False for a very short token."""
        is_escaped = "%" in text or ";" in text or "\\" in text
        plain = _plain(text) if is_escaped else text.lower()
        return self._token.may_be_in(plain) and any(True for _ in self._token.found_in(plain))


class _Needles:
    """The pieces of secrets that are looked for in an unescaped text."""

    __slots__ = ("_probes", "_windows")

    def __init__(self, forms: Iterable[str]) -> None:
        windows: dict[int, set[Secret]] = {}
        probes: set[Secret] = set()
        for form in forms:
            size = min(_WINDOW, len(form))
            pieces = (Secret(form[at : at + size]) for at in range(len(form) - size + 1))
            windows.setdefault(size, set()).update(pieces)
            length, step = (_PROBE, _STRIDE) if size == _WINDOW else (size, size)
            places = range(0, len(form) - length + 1, step)
            probes.update(Secret(form[at : at + length]) for at in places)
        self._windows = {size: frozenset(pieces) for size, pieces in windows.items()}
        self._probes = tuple(probes)
        """Any text with one of the windows holds one of these: most texts need no other look."""

    def may_be_in(self, plain: str) -> bool:
        """Whether a longer look is worth while."""
        return any(probe in plain for probe in self._probes)

    def found_in(self, plain: str) -> Iterator[tuple[int, int]]:
        """The places of the first and the last character of each window in the text."""
        for size, windows in self._windows.items():
            for at in range(len(plain) - size + 1):
                if plain[at : at + size] in windows:
                    yield at, at + size - 1


def _forms(secret: str) -> Iterator[str]:
    """The secret as it looks in an unescaped text: itself, and in base64 at each alignment."""
    plain = _plain(secret)
    if len(plain) >= _LEAST:
        yield plain
    raw = secret.encode("utf-8", "surrogatepass")
    for shift, lead in enumerate((0, 2, 3)):
        # The first and the last character may mix in bits of what surrounds the secret.
        padded, end = bytes(shift) + raw, (shift + len(raw)) * 8 // 6
        if end - lead >= 2 * _LEAST:
            yield b64encode(padded)[lead:end].decode().lower()
            yield urlsafe_b64encode(padded)[lead:end].decode().lower()


# --- Escapes -------------------------------------------------------------------------------------

_HEX: Final = "[0-9A-Fa-f]"
# Compiled on first use, which few need: that takes longer than the rest of the module.
_ESCAPE: Final = (
    rf"%({_HEX}{{2}})|\\+u({_HEX}{{4}})|\\+U({_HEX}{{8}})|\\+u\{{({_HEX}{{1,6}})\}}"
    rf"|\\+x({_HEX}{{2}})|&#[xX]({_HEX}{{1,6}});?|&#([0-9]{{1,7}});?|&([A-Za-z]{{2,31}});"
    r"|\\+[nrtbf]?|[^!-~]+"
)
_DECIMAL: Final = 7
_NAMED: Final = 8


def _plain(text: str) -> str:
    """The printable ASCII of the text in lower case, without escapes and white space."""
    for _ in range(_PASSES):
        before, text = text, re.sub(_ESCAPE, _char, text)
        if text == before:
            break
    return text.lower()


def _mapped(text: str) -> tuple[str, list[int], list[int]]:
    """The text as `_plain` gives it, and for each character where it starts and ends in `text`."""
    plain, starts, ends = text, list(range(len(text))), list(range(1, len(text) + 1))
    for _ in range(_PASSES):
        parts: list[str] = []
        new_starts: list[int] = []
        new_ends: list[int] = []
        done = 0
        for match in re.finditer(_ESCAPE, plain):
            begin, end = match.span()
            char = _char(match)
            parts += (plain[done:begin], char)
            new_starts += starts[done:begin]
            new_ends += ends[done:begin]
            if char:
                new_starts += [starts[begin]] * len(char)
                new_ends += [ends[end - 1]] * len(char)
            done = end
        if not parts:
            break
        plain = "".join([*parts, plain[done:]])
        starts, ends = new_starts + starts[done:], new_ends + ends[done:]
    return plain.lower(), starts, ends


def _char(match: "re.Match[str]") -> str:
    """The character that an escape stands for; empty if it is none that a token may have."""
    group = match.lastindex
    if group is None:
        return ""
    digits = match.group(group)
    if group == _NAMED:
        from html import unescape  # noqa: PLC0415  # its table takes long to load, and few need it

        return unescape(f"&{digits};")
    code = int(digits, 10 if group == _DECIMAL else 16)
    return chr(code) if 0x21 <= code <= 0x7E else ""
