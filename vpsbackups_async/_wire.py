"""What goes over the wire, without sending it: requests, replies, `Retry-After`.

Bytes in, values or typed errors out; no I/O.
"""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import ModuleType
from typing import Any, Final, Generic, Literal, TypeVar

import msgspec
from attrs import define, field, frozen

from vpsbackups_async._checks import check_int
from vpsbackups_async.errors import (
    ApiError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    InvalidResponseError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
)
from vpsbackups_async.models import (
    Backup,
    BackupRef,
    BackupType,
    Page,
    Restore,
    as_utc,
)

API_ROOT: Final = "/api/v1"

T = TypeVar("T")

Kind = Literal["list", "create", "delete", "restore"]


@frozen
class Policy:
    """What the outcome of an attempt means for one endpoint, and whether it may be repeated.

    The defaults are the careful ones: sent again only where the server did not act on it.
    """

    idempotent: bool = False
    """Whether repeating it has no further effect (RFC 9110, 9.2.2)."""
    success_by_status: bool = False
    """Whether a 2xx is success even if its body cannot be read."""
    missing_means_done: bool = False
    """Whether a 404 means success after an attempt that may have been carried out."""
    unreadable: Literal["failed", "accepted"] = "failed"
    """What a 2xx with an unreadable body means, unless it is success by its status.

    "failed": a failed attempt, which may be repeated if idempotent. "accepted": the server did the
    work, but what it made is unknown; never repeated.
    """


_LIST: Final = Policy(idempotent=True)
_CREATE: Final = Policy(unreadable="accepted")
_DELETE: Final = Policy(idempotent=True, success_by_status=True, missing_means_done=True)
_RESTORE: Final = Policy(success_by_status=True)


@define
class Request:
    """One request to the API: its bytes, and the policy for its failures.

    `kind` is a label for the limiter, logs and spans; what may be done with the request is up to
    its `policy`.
    """

    kind: Kind
    policy: Policy
    method: str
    path: str
    """Below the API's root, with the exact slash: `/backups/501/`."""
    query: str = ""
    """Already encoded, without the question mark."""
    body: bytes | None = None


def check_backup_type(value: object) -> BackupType:
    """The type as an enum member; raises `ValueError` naming the known ones for any other."""
    if isinstance(value, str) and (known := BackupType(value)).is_known:
        return known
    names = " or ".join(repr(str(member)) for member in BackupType)
    raise ValueError(f"backup_type must be {names}, not {value!r}")


def create_request(server_id: int, description: str | None) -> Request:
    """A manual backup of a server; raises `ValueError` for a bad id or description."""
    body: dict[str, object] = {"server_id": check_int("server_id", server_id)}
    if description is not None:
        if not isinstance(description, str):
            raise ValueError(f"description must be a str or None, not {description!r}")
        body["description"] = description
    return Request("create", _CREATE, "POST", "/backups/", body=_encode(body))


def delete_request(backup_id: int) -> Request:
    """The removal of a backup, for good."""
    path = f"/backups/{check_int('backup_id', backup_id)}/"
    return Request("delete", _DELETE, "DELETE", path)


def restore_request(server_id: int, backup_id: int) -> Request:
    """The restore of a server from one of its backups."""
    path = f"/servers/{check_int('server_id', server_id)}/restore/"
    body = _encode({"backup_id": check_int("backup_id", backup_id)})
    return Request("restore", _RESTORE, "POST", path, body=body)


def _encode(body: dict[str, object]) -> bytes:
    try:
        return msgspec.json.encode(body)
    except (UnicodeEncodeError, OverflowError) as error:
        raise ValueError(f"the request cannot be written as JSON: {error}") from None


# --- Replies: errors -----------------------------------------------------------------------------

_BY_STATUS: Final[Mapping[int, type[ApiError]]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    422: BadRequestError,
    429: RateLimitedError,
}
_REQUEST_ID_HEADERS: Final = ("X-Request-ID", "X-Correlation-ID", "X-Amzn-Trace-Id", "CF-Ray")
_DETAIL_LIMIT: Final = 500
_PAGE_HEAD_BYTES: Final = 4096
"""A title comes early, and a search for tags in a page of nothing but `<` takes its square."""
_DETAIL_KEYS: Final = ("detail", "message", "error")
_NO_FIELDS: Final = frozenset({*_DETAIL_KEYS, "code", "status", "status_code"})
_BAD_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decipher(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    method: str = "",
    path: str = "",
    attempts: int = 1,
    now: datetime | None = None,
) -> ApiError:
    """The typed error for an answer whose status is no success.

    `headers` must look names up without regard to case. A date in `Retry-After` is measured against
    the answer's own `Date`, or against `now` (default: the current time) where it has none.
    """
    kind = _BY_STATUS.get(status) or (ServerError if status >= 500 else ApiError)
    detail, field_errors = _error_words(body)
    return kind(
        status,
        detail,
        field_errors,
        request_id(headers),
        method,
        path,
        attempts,
        retry_after(headers, now),
    )


def request_id(headers: Mapping[str, str]) -> str | None:
    """What the reply's headers call the request, None if nothing."""
    return next((headers[name] for name in _REQUEST_ID_HEADERS if headers.get(name)), None)


def _error_words(body: bytes) -> tuple[str, dict[str, list[str]]]:
    """DRF's `{"detail": …}`, `{"field": […]}` or list; the title or first words of a page."""
    try:
        said = msgspec.json.decode(body)
    except _BAD_JSON:
        return _page_words(body), {}
    if not isinstance(said, Mapping):
        return _clip("; ".join(_flat(said))), {}
    detail = next((said[name] for name in _DETAIL_KEYS if said.get(name) not in (None, "")), "")
    fields = {name: _flat(value) for name, value in said.items() if name not in _NO_FIELDS}
    if isinstance(detail, Mapping | list):
        fields["detail"] = _flat(detail)
        detail = ""
    return _clip(str(detail)), fields


def _flat(value: object, levels: int = 8) -> list[str]:
    """Messages out of whatever nesting DRF puts them in, down to a depth that no stack minds."""
    if isinstance(value, Mapping | list) and not levels:
        return ["…"]
    if isinstance(value, Mapping):
        return [
            f"{name}: {said}" for name, inner in value.items() for said in _flat(inner, levels - 1)
        ]
    if isinstance(value, list):
        return [said for inner in value for said in _flat(inner, levels - 1)]
    return [] if value is None else [_clip(str(value))]


def _page_words(body: bytes) -> str:
    text = body[:_PAGE_HEAD_BYTES].decode("utf-8", "replace")
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    words = title.group(1) if title else re.sub(r"<[^>]*>", " ", text)
    return _clip(" ".join(words.split()))


def _clip(text: str) -> str:
    return text if len(text) <= _DETAIL_LIMIT else text[: _DETAIL_LIMIT - 1] + "…"


# --- Replies: times ------------------------------------------------------------------------------

_SECONDS: Final = re.compile(r"[0-9]+(\.[0-9]+)?")
_FOREVER: Final = 1e18
"""Seconds that stand for any longer time, so that arithmetic with them stays finite."""


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """The seconds that `Retry-After` asks to wait; None where it says nothing usable.

    Both forms of RFC 9110, section 10.2.3, and fractions. A date is measured against the reply's
    own `Date`, so that a wrong clock on either side does not matter, else against `now`.
    """
    text = headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(text):
        return min(float(text), _FOREVER)
    when = http_date(text)
    if when is None:
        return None
    seconds = (when - (date_of(headers) or now or datetime.now(UTC))).total_seconds()
    return max(0.0, seconds)


def date_of(headers: Mapping[str, str]) -> datetime | None:
    """The server's own clock when it answered, from the `Date` header; None without one."""
    return http_date(headers.get("Date", ""))


def http_date(text: str) -> datetime | None:
    """An HTTP date as aware UTC; None where it is none."""
    try:
        return as_utc(parsedate_to_datetime(text))  # `-0000` parses as naive: UTC, says RFC 5322
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


# --- Replies: values -----------------------------------------------------------------------------


@define
class Response:
    """A reply that arrived whole, with the request that it answers."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    request: Request
    attempts: int = 1

    def misfit(self, reason: str, place: str = "") -> InvalidResponseError:
        """The error to raise where the body does not fit the contract."""
        return InvalidResponseError(
            reason,
            place,
            self.status,
            self.request.method,
            API_ROOT + self.request.path,
            request_id(self.headers),
        )


class _Absent:
    """The default of a key that may be missing, to tell it from null."""


_ABSENT: Any = _Absent()


@frozen
class _PageDoc:
    """A page as the JSON has it."""

    results: tuple[Backup, ...]
    count: int | None = _ABSENT
    next: str | None = _ABSENT
    previous: str | None = _ABSENT


_COMMAS: Final = 9
"""The commas of a backup with its eight fields and its server's two, and the one after it."""
_QUOTES: Final = 30
"""The quotation marks of a backup's ten keys and its five strings that are never null."""


def read_page(response: Response) -> Page[Backup]:
    """The page in a list's reply; raises `InvalidResponseError` naming the place that does not fit.

    A bare JSON array counts as the only page. Both paths give equal values; the fast one takes only
    what needs no repair, and leaves the rest, errors included, to the converter.
    """
    return _fast_page(response.body) or _plain_page(response)


def _fast_page(body: bytes) -> Page[Backup] | None:
    try:
        doc = _PAGE_DECODER.decode(body)
    except _BAD_JSON:
        return None
    dated = 0
    for backup in doc.results:
        if backup.created_at.tzinfo is not UTC:
            return None
        if (expires := backup.expires_at) is not None:
            dated += 1
            if expires.tzinfo is not UTC:
                return None
    return _page(doc) if _has_known_fields_only(body, doc, dated) else None


def _has_known_fields_only(body: bytes, doc: "_PageDoc", dated: int) -> bool:
    """Whether msgspec, which passes over unknown fields, can have passed over none.

    No known field can be missing here, so that every further one makes the sum of commas differ,
    and that of quotation marks too. Either sum may differ because of what a text holds; that both
    do is rare. `dated` is how many backups expire.
    """
    backups = len(doc.results)
    links = (doc.count is not _ABSENT) + (doc.next is not _ABSENT) + (doc.previous is not _ABSENT)
    if body.count(b",") == links + (_COMMAS * backups - 1 if backups else 0):
        return True
    texts = (type(doc.next) is str) + (type(doc.previous) is str)
    return body.count(b'"') == 2 + 2 * links + 2 * texts + _QUOTES * backups + 2 * dated


def _plain_page(response: Response) -> Page[Backup]:
    said = _json(response)
    doc: _PageDoc = _structure(
        response, {"results": said} if isinstance(said, list) else said, _PageDoc
    )
    return _page(doc)


def _page(doc: _PageDoc) -> Page[Backup]:
    return Page(
        doc.results,
        None if doc.count is _ABSENT else doc.count,
        None if doc.next is _ABSENT else doc.next or None,
        None if doc.previous is _ABSENT else doc.previous or None,
    )


def read_backup(response: Response) -> Backup:
    """The backup in a create's reply; raises `InvalidResponseError` where it does not fit."""
    backup: Backup = _structure(response, _json(response), Backup)
    return backup


def read_restore(response: Response, server_id: int, backup_id: int) -> Restore:
    """What a restore's reply says: any body is good, for what it holds is not documented."""
    try:
        data = msgspec.json.decode(response.body)
    except _BAD_JSON:
        data = None
    said = data if isinstance(data, Mapping) else {}
    texts = (said.get(name) for name in ("message", "detail"))
    message = next((text for text in texts if isinstance(text, str)), None)
    return Restore(server_id, backup_id, response.status, message, data)


@frozen
class Listing(Generic[T]):
    """An endpoint that lists: its path below the API's root, and the reader of its pages."""

    path: str
    read: Callable[[Response], Page[T]]

    def request(self, query: str) -> Request:
        """The request for a page; `query` is encoded already."""
        return Request("list", _LIST, "GET", self.path, query)


BACKUPS: Final = Listing("/backups/", read_page)
"""The list of backups, over all servers or filtered."""


def _json(response: Response) -> Any:
    try:
        return msgspec.json.decode(response.body)
    except _BAD_JSON as error:
        reason = str(error)
    kind = response.headers.get("Content-Type") or "no content type"
    start = _page_words(response.body[:200])
    raise response.misfit(f"the body is not JSON: {reason} ({kind}, it begins with {start!r})")


def _structure(response: Response, said: object, kind: type) -> Any:
    codec = _codec()
    try:
        return codec.converter(_PageDoc).structure(said, kind)
    except Exception as error:  # noqa: BLE001  # an ExceptionGroup of whatever the hooks raised
        reason, place = codec.misfit(error)
    raise response.misfit(reason, place)


def _codec() -> ModuleType:
    """The room of the converter, on first use: cattrs would be a sixth of all that we import."""
    from vpsbackups_async import _codec  # noqa: PLC0415  # few replies need it

    return _codec


V = TypeVar("V", Backup, BackupRef)


def to_json(value: Backup | BackupRef) -> bytes:
    """The value as one line of JSON in UTF-8, to store, log or stream; `from_json` reads it back.

    A backup is written as the API writes it, with the fields that this version does not know; times
    are in UTC.
    """
    text: bytes = _codec().converter(_PageDoc).dumps(value)
    return text


def from_json(kind: type[V], text: bytes | str) -> V:
    """The `Backup` or `BackupRef` (`kind`) that `to_json` wrote.

    Raises `ValueError` naming the place that does not fit, for stored text may be anybody's.
    """
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    codec = _codec()
    try:
        value: V = codec.converter(_PageDoc).loads(raw, kind)
    except _BAD_JSON as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001  # an ExceptionGroup of whatever the hooks raised
        why, place = codec.misfit(error)
        reason = f"{why} at {place}" if place else why
    else:
        return value
    raise ValueError(f"that is not the JSON of a {kind.__name__}: {reason}")


_PAGE_DECODER: Final = msgspec.json.Decoder(_PageDoc)
