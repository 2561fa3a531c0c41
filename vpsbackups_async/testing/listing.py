"""The lists with four styles of pagination, modelled on Django REST framework."""

from __future__ import annotations

import base64
import bisect
import enum
import json
from collections.abc import Callable, Sequence
from urllib.parse import urlencode

import attrs

from .knobs import Knobs
from .replies import JSON_TYPE, Answer, problem
from .state import Account, Key

__all__ = ["bad_choice", "listing", "page"]

BACKUP_TYPES = ("manual", "automatic")


class _Unset(enum.Enum):
    """The type of `_UNSET`: a link whose key is missing from the reply."""

    UNSET = enum.auto()


_UNSET = _Unset.UNSET
# The query parameters that a link changes; None removes the parameter.
_Change = dict[str, str | None]
_Link = _Change | _Unset | None


class _BadPageError(Exception):
    """The requested page does not exist; the text is the detail of the reply."""


@attrs.frozen
class _Window:
    """The part of the list that a reply contains.

    A link is the query parameters to change, None for null, or `_UNSET` to leave its key out.
    """

    keys: Sequence[Key]
    count: int | None
    next: _Link = _UNSET
    previous: _Link = _UNSET


def listing(account: Account, knobs: Knobs, query: dict[str, str], url: str) -> Answer:
    """The reply to a GET of the list at ``url`` with the parameters ``query``."""
    server_id = backup_type = None
    filters = {name: text for name, text in query.items() if name not in knobs.ignores_filters}
    if text := filters.get("server_id"):
        server_id = _whole_number(text)
        if server_id is None:
            return _bad_filter("server_id", "Enter a number.")
    if text := filters.get("backup_type"):
        if text not in BACKUP_TYPES:
            return bad_choice("backup_type", text)
        backup_type = text
    keys = account.keys(server_id, backup_type)
    return page(keys, account.encoded, account.descending, knobs, query, url)


def page(
    keys: list[Key],
    encoded: Callable[[Key], bytes],
    descending: bool,
    knobs: Knobs,
    query: dict[str, str],
    url: str,
) -> Answer:
    """The reply with the page that ``query`` asks for; ``keys`` are all that match, ascending."""
    try:
        window = _STYLES[knobs.paging](keys, descending, knobs, query)
    except _BadPageError as bad:
        return problem(404, str(bad))
    return Answer(200, _body(encoded, window, query, url), {"Content-Type": JSON_TYPE})


def _body(
    encoded: Callable[[Key], bytes], window: _Window, query: dict[str, str], url: str
) -> bytes:
    head: list[str] = []
    if window.count is not None:
        head.append(f'"count":{window.count}')
    for name, change in (("next", window.next), ("previous", window.previous)):
        if not isinstance(change, _Unset):
            link = None if change is None else _link(url, query, change)
            head.append(f'"{name}":{json.dumps(link)}')
    head.append('"results":[')
    # Each backup caches its encoded JSON, so a page is built without encoding any again.
    results = b",".join([encoded(key) for key in window.keys])
    return b"".join([b"{", ",".join(head).encode(), results, b"]}"])


def bad_choice(name: str, text: str) -> Answer:
    """The reply to a filter with a value that is none of its choices."""
    message = f"Select a valid choice. {text} is not one of the available choices."
    return _bad_filter(name, message)


def _bad_filter(name: str, message: str) -> Answer:
    body = json.dumps({name: [message]}).encode()
    return Answer(400, body, {"Content-Type": JSON_TYPE})


def _link(url: str, query: dict[str, str], change: _Change) -> str:
    merged = {**query, **change}
    kept = sorted((name, value) for name, value in merged.items() if value is not None)
    return f"{url}?{urlencode(kept)}" if kept else url


def _whole_number(text: str) -> int | None:
    try:
        return int(text) if text.isascii() else None
    except ValueError:
        return None


def _size(query: dict[str, str], name: str, knobs: Knobs) -> int:
    # Django REST framework uses its default for anything that is not a positive number.
    asked = _whole_number(query.get(name, "")) or 0
    return min(asked, knobs.max_page_size) if asked > 0 else knobs.page_size


def _slice(keys: list[Key], descending: bool, start: int, stop: int) -> list[Key]:
    if not descending:
        return keys[start:stop]
    end = len(keys)
    return keys[max(end - stop, 0) : max(end - start, 0)][::-1]


def _by_page(keys: list[Key], descending: bool, knobs: Knobs, query: dict[str, str]) -> _Window:
    size = _size(query, "page_size", knobs)
    pages = max(1, -(-len(keys) // size))
    page = _page_number(query, pages)
    return _Window(
        _slice(keys, descending, (page - 1) * size, page * size),
        len(keys),
        {"page": str(page + 1)} if page < pages else None,
        None if page == 1 else {"page": str(page - 1) if page > 2 else None},
    )


def _page_number(query: dict[str, str], pages: int) -> int:
    text = query.get("page") or "1"
    page = pages if text == "last" else _whole_number(text)
    if page is None or not 1 <= page <= pages:
        raise _BadPageError("Invalid page.")
    return page


def _by_limit(keys: list[Key], descending: bool, knobs: Knobs, query: dict[str, str]) -> _Window:
    limit = _size(query, "limit", knobs)
    offset = max(_whole_number(query.get("offset", "")) or 0, 0)
    next_link: _Change | None = None
    previous_link: _Change | None = None
    if offset + limit < len(keys):
        next_link = {"limit": str(limit), "offset": str(offset + limit)}
    if offset > 0:
        start = offset - limit
        previous_link = {"limit": str(limit), "offset": str(start) if start > 0 else None}
    return _Window(
        _slice(keys, descending, offset, offset + limit), len(keys), next_link, previous_link
    )


def _by_cursor(keys: list[Key], descending: bool, knobs: Knobs, query: dict[str, str]) -> _Window:
    size = _size(query, "page_size", knobs)
    backwards, mark = _read_cursor(query.get("cursor"))
    if mark is not None and keys and type(mark[0]) is not type(keys[0][0]):
        raise _BadPageError("Invalid cursor")
    start = 0
    if mark is not None:
        # `first` and `after` are positions in the order of the list: that of the mark, and the one
        # just after it.
        before = bisect.bisect_left(keys, mark)
        through = bisect.bisect_right(keys, mark)
        first, after = before, through
        if descending:
            first, after = len(keys) - through, len(keys) - before
        start = max(first - size, 0) if backwards else after
        size = min(size, first) if backwards else size
    page = _slice(keys, descending, start, start + size)
    next_link: _Change | None = None
    previous_link: _Change | None = None
    if page and start + size < len(keys):
        next_link = {"cursor": _cursor(False, page[-1])}
    if page and start > 0:
        previous_link = {"cursor": _cursor(True, page[0])}
    return _Window(page, None, next_link, previous_link)


def _cursor(backwards: bool, key: Key) -> str:
    return base64.urlsafe_b64encode(json.dumps([backwards, *key]).encode()).decode()


def _read_cursor(text: str | None) -> tuple[bool, Key | None]:
    if not text:
        return False, None
    try:
        backwards, value, backup_id = json.loads(base64.urlsafe_b64decode(text))
        return bool(backwards), (value, int(backup_id))
    except (TypeError, ValueError):
        raise _BadPageError("Invalid cursor") from None


def _unpaged(keys: list[Key], descending: bool, knobs: Knobs, query: dict[str, str]) -> _Window:
    size = knobs.truncate_to
    if size is None:
        return _Window(_slice(keys, descending, 0, len(keys)), len(keys))
    page = 1
    if knobs.honours_page:
        page = _page_number(query, max(1, -(-len(keys) // size)))
    return _Window(_slice(keys, descending, (page - 1) * size, page * size), len(keys))


_STYLES = {"page": _by_page, "limit": _by_limit, "cursor": _by_cursor, "none": _unpaged}
