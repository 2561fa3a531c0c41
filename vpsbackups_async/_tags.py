"""Tags at the end of a description, such as `Nightly [job:web] [vb:7f3a2c91]`.

The API has no field for labels, so they are part of the description. A tag is a name and a value in
brackets; only known names count. Descriptions are compared without their tags.

`[vb:...]` is the marker of a create, `[job:...]` the job that a backup belongs to. `[keep]` and
`[keep:2027-01-01]` (through that day) pin a backup. What deletes backups errs on the side of
keeping them: a pin or a label that is cut off, misspelt, escaped for HTML, of other forms of the
letters (Unicode's NFKC) or in the wrong place still protects.
"""

import os
import re
import unicodedata
from datetime import date, datetime
from typing import Final

__all__ = [
    "check_job",
    "check_marker",
    "has_readable_label",
    "is_pinned",
    "job_of",
    "keeps_labels",
    "marker_of",
    "new_marker",
    "same",
    "text_before_cut",
    "text_of",
    "with_labels",
    "with_marker",
]

_VALUE: Final = r"[A-Za-z0-9._:/+@=-]{1,64}"
# These are compiled on first use, as that would take most of the time of the import.
_TAG: Final = rf"(?i)\[(vb|keep|job)(?::({_VALUE}))?\]"
_CUT_TAG: Final = rf"(?i)\[(?:v|vb|k|kee?|keep|jo?|job|(?:vb|keep|job):(?:{_VALUE})?)?"
_DAY: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_MARKER: Final = "vb"
_MARKER_BYTES: Final = 4
_MOST_ESCAPES: Final = 3
"""How often a description may be escaped one over the other and is still understood."""
_MAX_TAGS: Final = 16
"""More tags count as text, so that no description takes long to read."""


def text_of(description: str) -> str:
    """The description without its tags and without spaces around it, which the API may trim."""
    return _split(description)[0]


def text_before_cut(description: str) -> str | None:
    """The text before a tag that was cut off at the end of the description; None if none was."""
    start = description.rfind("[")
    if start < 0 or not re.fullmatch(_CUT_TAG, description[start:]):
        return None
    before = description[:start]
    return text_of(before) if not before or before[-1].isspace() else None


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
    return _with_tag(description or "", _MARKER, f"[{_MARKER}:{marker}]")


def _with_tag(description: str, name: str, tag: str) -> str:
    text, tags = _split(description)
    kept = [other[0] for other in reversed(tags) if other[1].lower() != name]
    return " ".join([*filter(None, [text]), *kept, tag])


# --- Labels: jobs and pins -------------------------------------------------------------------


def has_readable_label(description: str) -> bool:
    """Whether it is certain to which job the backup belongs: the one of its tag, or to none.

    It is not if the tags name several jobs or one without a value, if `[job` stands anywhere else,
    or if there is no job and the text ends in a bracket that is no tag, or in an open one: that
    may be a label that was cut off or that a later version of this library writes.
    """
    text, tags = _split(description)
    jobs = {(tag[2] or "").casefold() for tag in tags if tag[1].lower() == "job"}
    if len(jobs) > 1 or "" in jobs or _count(text, "[job"):
        return False
    shown = _plain(text)
    return bool(jobs) or not (shown.endswith("]") or shown.rfind("[") > shown.rfind("]"))


def is_pinned(description: str, today: date) -> bool:
    """Whether the backup is to be kept today.

    `[keep` anywhere in the description pins it, whatever follows. The one exception are tags with a
    day that is over.
    """
    over = sum(_is_over(tag, today) for tag in _split(description)[1])
    return _count(description, "[keep") > over


def _count(description: str, start: str) -> int:
    """How often a tag starts so in the description, as it is or in its plain form."""
    forms = (description, _plain(description))
    return max(form.casefold().count(start) for form in forms)


def _plain(description: str) -> str:
    """The description without escapes of HTML, each character in its plainest form."""
    if description.isascii() and "&" not in description:
        return description
    from html import unescape  # noqa: PLC0415  # its table takes long to load, and few need it

    for _ in range(_MOST_ESCAPES):
        description = unicodedata.normalize("NFKC", unescape(description))
    return description


def _is_over(tag: re.Match[str], today: date) -> bool:
    if tag[1].lower() != "keep" or not re.fullmatch(_DAY, tag[2] or ""):
        return False
    try:
        return date.fromisoformat(tag[2]) < today
    except ValueError:  # no such day
        return False


def with_labels(
    description: str | None, *, keep: bool | date | None = None, job: str | None = None
) -> str:
    """The description with these labels at its end, in place of those that it may have.

    Raises `ValueError` for a label that is none, or that could not be read in this description.
    """
    labelled = description or ""
    if isinstance(keep, datetime) or not isinstance(keep, bool | date | None):
        raise ValueError(f"keep must be True or a date (the last day), not {keep!r}")
    if keep is not None and keep is not False:
        labelled = _with_tag(labelled, "keep", "[keep]" if keep is True else f"[keep:{keep}]")
    if job is not None:
        labelled = _with_tag(labelled, "job", f"[job:{check_job(job)}]")
    if job is not None and not has_readable_label(labelled):
        raise ValueError(f"with '[job' in its text, {description!r} cannot belong to a job")
    if isinstance(keep, date) and is_pinned(labelled, date.max) and keep < date.max:
        raise ValueError(f"with '[keep' in its text, {description!r} is kept for ever")
    return labelled


def keeps_labels(sent: str, held: str) -> bool:
    """Whether the job and the pins of a description that was sent are in the one that is held."""
    return same(job_of(sent), job_of(held)) and _pins(sent) <= _pins(held)


def _pins(description: str) -> set[str]:
    tags = _split(description)[1]
    return {tag[0].casefold() for tag in tags if tag[1].lower() == "keep"}


def _split(description: str) -> tuple[str, list[re.Match[str]]]:
    """The text before the tags, and the tags from the last one to the first."""
    text = description.strip()
    tags: list[re.Match[str]] = []
    while text.endswith("]") and len(tags) < _MAX_TAGS:
        start = text.rfind("[")
        tag = re.fullmatch(_TAG, text[start:]) if start >= 0 else None
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
    return _check_value("marker must be True, False or a text", marker)


def check_job(job: object) -> str:
    """The name of a job; raises `ValueError` unless it is a text that fits into a tag."""
    return _check_value("job must be a text", job)


def _check_value(wanted: str, value: object) -> str:
    if isinstance(value, str) and re.fullmatch(_VALUE, value):
        return value
    raise ValueError(f"{wanted} of 1 to 64 letters, digits and ._:/+@=-, not {value!r}")
