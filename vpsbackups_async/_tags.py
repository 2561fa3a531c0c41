"""Tags at the end of a description, such as `Nightly [job:web] [vb:7f3a2c91]`.

The API has no field for labels, so they are part of the description. A tag is a name and a value in
brackets; only known names count. Descriptions are compared without their tags.
"""

import os
import re
from typing import Final

__all__ = ["check_marker", "job_of", "marker_of", "new_marker", "same", "text_of", "with_marker"]

_VALUE: Final = r"[A-Za-z0-9._:/+@=-]{1,64}"
_TAG: Final = re.compile(rf"\[(vb|keep|job)(?::({_VALUE}))?\]", re.IGNORECASE)
_MARKER: Final = "vb"
_MARKER_BYTES: Final = 4
_MAX_TAGS: Final = 16
"""More tags count as text, so that no description takes long to read."""


def text_of(description: str) -> str:
    """The description without its tags and without spaces around it, which the API may trim."""
    return _split(description)[0]


def marker_of(description: str) -> str | None:
    """The marker of a create at the end of the description; None if there is none."""
    return _value(description, _MARKER)


def job_of(description: str) -> str | None:
    """The job at the end of the description; None if there is none."""
    return _value(description, "job")


def same(one: str | None, other: str | None) -> bool:
    """Whether two values of tags are the same; an API may change the case of a description."""
    return (one and one.casefold()) == (other and other.casefold())


def _value(description: str, name: str) -> str | None:
    tags = _split(description)[1]
    return next((tag[2] for tag in tags if tag[1].lower() == name and tag[2]), None)


def with_marker(description: str | None, marker: str) -> str:
    """The description with a marker at its end, in place of the one that it may have."""
    text, tags = _split(description or "")
    kept = [tag[0] for tag in reversed(tags) if tag[1].lower() != _MARKER]
    return " ".join([*filter(None, [text]), *kept, f"[{_MARKER}:{marker}]"])


def _split(description: str) -> tuple[str, list[re.Match[str]]]:
    """The text before the tags, and the tags from the last one to the first."""
    text = description.strip()
    tags: list[re.Match[str]] = []
    while text.endswith("]") and len(tags) < _MAX_TAGS:
        start = text.rfind("[")
        tag = _TAG.fullmatch(text, start) if start >= 0 else None
        if tag is None:
            break
        tags.append(tag)
        text = text[:start].rstrip()
    return text, tags


def new_marker() -> str:
    """A marker that no other create has; from the system, so that forked processes differ."""
    return os.urandom(_MARKER_BYTES).hex()


def check_marker(marker: object) -> str:
    """The marker; raises `ValueError` unless it is a text that fits into a tag."""
    if isinstance(marker, str) and re.fullmatch(_VALUE, marker):
        return marker
    raise ValueError(
        f"marker must be True, False or a text of 1 to 64 letters, digits and ._:/+@=-, "
        f"not {marker!r}"
    )
