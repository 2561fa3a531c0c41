"""The public face as text: every public name with its parameters, annotations and defaults.

Run `python tests/helpers_face.py > tests/data/public_face.txt` after an intended change.
"""

import enum
import importlib
import inspect
import re
import types
import typing
from collections.abc import Iterator

MODULES = (
    "vpsbackups_async",
    "vpsbackups_async.audit",
    "vpsbackups_async.errors",
    "vpsbackups_async.events",
    "vpsbackups_async.limiters",
    "vpsbackups_async.metrics",
    "vpsbackups_async.retention",
    "vpsbackups_async.testing",
)
PUBLIC = {name for module in MODULES for name in importlib.import_module(module).__all__}

_WORDS = {type(None): "None", ...: "..."}


def public_face() -> str:
    """One line for each public name and member, grouped by module."""
    lines: list[str] = []
    described: set[int] = set()
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        lines.append(f"# {module_name}")
        for name in sorted(module.__all__):
            value = getattr(module, name)
            if id(value) in described:
                lines.append(f"{name}: see above")
                continue
            described.add(id(value))
            lines += _described(name, value)
        lines.append("")
    return "\n".join(lines)


def _described(name: str, value: object) -> Iterator[str]:
    if inspect.isclass(value):
        bases = ", ".join(_shown(base) for base in value.__bases__ if base is not object)
        yield f"class {name}({bases})"
        yield from (f"    {line}" for line in _members(value))
    elif inspect.isroutine(value):
        yield _function(name, value)
    else:
        yield f"{name} = {_shown(value)}"


def _members(kind: type) -> Iterator[str]:
    if issubclass(kind, enum.Enum):
        yield from (f"{member.name} = {member.value!r}" for member in kind)
    elif "__init__" in vars(kind) and not getattr(kind, "_is_protocol", False):
        yield _function("__init__", kind.__init__)
    members = {
        name: member
        for base in reversed(kind.__mro__)
        if base is kind or _is_hidden(base)
        for name, member in vars(base).items()
    }
    for name, member in sorted(members.items()):
        if name.startswith("_") and name not in {"__call__", "__aiter__", "__aenter__"}:
            continue
        if isinstance(member, property):
            yield f"{name}: property {_shown(_annotations(member.fget).get('return'))}"
        elif isinstance(member, classmethod | staticmethod):
            yield f"@{type(member).__name__} {_function(name, member.__func__)}"
        elif inspect.isroutine(member):
            yield _function(name, member)
    if not issubclass(kind, enum.Enum):
        own = vars(kind).get("__annotations__", {})
        yield from (f"{name}: {_shown(own[name])}" for name in own if not name.startswith("_"))


def _is_hidden(kind: type) -> bool:
    """Whether the class is private to the package, so that subclasses list its members."""
    return kind.__module__.startswith("vpsbackups_async._") and kind.__name__ not in PUBLIC


def _annotations(function: object) -> dict[str, object]:
    try:
        return typing.get_type_hints(function)
    except NameError:
        return inspect.get_annotations(function)  # type: ignore[arg-type]


def _function(name: str, function: object) -> str:
    signature = inspect.signature(function)  # type: ignore[arg-type]
    hints = _annotations(function)
    parameters = [
        parameter.replace(annotation=_Text(_shown(hints[parameter.name])))
        if parameter.name in hints
        else parameter
        for parameter in signature.parameters.values()
    ]
    given = _Text(_shown(hints["return"])) if "return" in hints else inspect.Signature.empty
    text = str(signature.replace(parameters=parameters, return_annotation=given))
    is_async = inspect.iscoroutinefunction(function)
    return f"{'async ' if is_async else ''}def {name}{_without_addresses(text)}"


class _Text:
    """An annotation whose repr is the given text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _shown(annotation: object) -> str:
    """The annotation as text that is the same on every Python version."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(annotation, list | tuple):
        text = f"[{', '.join(map(_shown, annotation))}]"
    elif origin in {typing.Union, types.UnionType}:
        text = " | ".join(map(_shown, arguments))
    elif origin is typing.Literal:
        text = f"Literal[{', '.join(map(repr, arguments))}]"
    elif origin is not None and arguments:
        text = f"{_shown(origin)}[{', '.join(map(_shown, arguments))}]"
    elif inspect.isclass(annotation):
        text = _WORDS.get(annotation, annotation.__qualname__)
    else:
        text = _WORDS.get(annotation) or str(annotation).replace("typing.", "")
    return _without_addresses(text)


def _without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", text)


if __name__ == "__main__":
    print(public_face(), end="")
