"""The requests and responses of the API: bytes to values or typed errors, and back.

This module does no I/O.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import ModuleType
from typing import (
    Annotated,
    Any,
    Final,
    Generic,
    Literal,
    Required,
    TypeAlias,
    TypedDict,
    TypeVar,
)

import msgspec
from attrs import AttrsInstance
from msgspec.structs import replace

from vpsbackups_async._checks import check_description, check_int
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
    Account,
    Backup,
    BackupRef,
    BackupType,
    Page,
    Restore,
    Server,
    as_utc,
)

API_ROOT: Final = "/api/v1"

T = TypeVar("T")

Mask: TypeAlias = Callable[[str], str]
"""Masks the secrets in a text of the server's that enters an error."""

Kind = Literal["list", "create", "delete", "restore", "account"]


def unmasked(text: str) -> str:
    """The text as it is, where there is no secret to mask."""
    return text


class Policy(msgspec.Struct, frozen=True):
    """What the outcome of an attempt means for one endpoint, and whether it may be repeated.

    The defaults are the careful ones: sent again only where the server did not act on it.
    """

    idempotent: bool = False
    """Whether repeating it has no further effect (RFC 9110, 9.2.2)."""
    reads: bool = False
    """Whether it changes nothing (RFC 9110, 9.2.1)."""
    success_by_status: bool = False
    """Whether a 2xx is success even if its body cannot be read."""
    missing_means_done: bool = False
    """Whether a 404 means success after an attempt that may have been carried out."""
    unreadable: Literal["failed", "accepted"] = "failed"
    """What a 2xx with an unreadable body means, unless it is success by its status.

    "failed": a failed attempt, which may be repeated if idempotent. "accepted": the server did the
    work, but what it made is unknown; never repeated.
    """


_READ: Final = Policy(idempotent=True, reads=True)
_CREATE: Final = Policy(unreadable="accepted")
_DELETE: Final = Policy(idempotent=True, success_by_status=True, missing_means_done=True)
_RESTORE: Final = Policy(success_by_status=True)


class Request(msgspec.Struct, frozen=True):
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
    """The backup type as an enum member; raises `ValueError` unless it is a known one."""
    if isinstance(value, str) and (known := BackupType(value)).is_known:
        return known
    names = " or ".join(repr(str(member)) for member in BackupType)
    raise ValueError(f"backup_type must be {names}, not {value!r}")


def create_request(server_id: int, description: str | None) -> Request:
    """A manual backup of a server; raises `ValueError` for a bad id or description."""
    body: dict[str, object] = {"server_id": check_int("server_id", server_id)}
    check_description(description)
    if description is not None:
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


def account_request() -> Request:
    """The account that the token belongs to."""
    return Request("account", _READ, "GET", "/account/me/")


def _encode(body: dict[str, object]) -> bytes:
    try:
        return msgspec.json.encode(body)
    except (UnicodeEncodeError, OverflowError) as error:
        raise ValueError(f"the request cannot be written as JSON: {error}") from None


# --- Responses: errors ---------------------------------------------------------------------------

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
_HTML_HEAD_BYTES: Final = 4096
"""The part of an HTML page that is searched for its title, which comes early.

The search takes quadratic time in a page that holds nothing but `<`.
"""
_DETAIL_KEYS: Final = ("detail", "message", "error")
_NOT_FIELDS: Final = frozenset({*_DETAIL_KEYS, "code", "status", "status_code"})
"""Keys of an error body that are not the names of request fields, unless they have a list."""
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
    mask: Mask = unmasked,
) -> ApiError:
    """The typed error for an answer whose status is no success.

    `headers` must look names up without regard to case. A date in `Retry-After` is measured against
    the answer's own `Date`, or against `now` (default: the current time) where it has none. `mask`
    is applied to every text of the server's.
    """
    kind = _BY_STATUS.get(status) or (ServerError if status >= 500 else ApiError)
    detail, field_errors = _error_words(body)
    error = kind(
        status,
        mask(detail),
        {mask(name): [mask(text) for text in texts] for name, texts in field_errors.items()},
        request_id(headers, mask),
        method,
        path,
        attempts,
        retry_after(headers, now),
    )
    error.from_api = body.lstrip()[:1] in {b"", b"{", b"["}  # also where it was cut
    error.has_api_form = _has_api_form(body)
    if status == 404 and not error.from_api:
        error.hint = _NOT_OF_API
    return error


_NOT_OF_API: Final = (
    "This 404 may not be the API's, as a text came with it that is no JSON: check base_url (or "
    "VPS_API_URL), and whether a proxy answers in its place"
)
NO_SUCH_SERVER: Final = "Check the id of the server: it may be gone, or another account's"
ACCOUNT_REFUSED: Final = (
    "Check whose token this is on the provider's site: this token is not given the account, and "
    "nothing else depends on it"
)


def hint_at_refusal(error: ApiError, hint: str) -> None:
    """Have a 403 or 404 of an optional call say what to do instead."""
    if error.status in {403, 404}:
        error.hint = hint


def request_id(headers: Mapping[str, str], mask: Mask) -> str | None:
    """The id of the request in the response headers, None if there is none."""
    return next((mask(headers[name]) for name in _REQUEST_ID_HEADERS if headers.get(name)), None)


def _error_words(body: bytes) -> tuple[str, dict[str, list[str]]]:
    """The message in the body of an error response, and its messages by field.

    The body may have one of the forms that Django REST framework uses: `{"detail": …}`,
    `{"field": […], …}` or a list. Of anything else, such as an HTML page, the message is the title
    or the first words.
    """
    try:
        data = msgspec.json.decode(body)
    except _BAD_JSON:
        return _text_of_html(body), {}
    if not isinstance(data, Mapping):
        return _clip("; ".join(_flat(data))), {}
    detail = next((data[name] for name in _DETAIL_KEYS if data.get(name) not in (None, "")), "")
    fields = {
        name: _flat(value)
        for name, value in data.items()
        if name not in _NOT_FIELDS or (isinstance(value, list) and name not in _DETAIL_KEYS)
    }
    if isinstance(detail, Mapping | list):
        fields["detail"] = _flat(detail)
        detail = ""
    return _clip(str(detail)), fields


def _has_api_form(body: bytes) -> bool:
    """Whether an error response has one of those forms, as few gateways' own have."""
    try:
        data = msgspec.json.decode(body)
    except _BAD_JSON:
        return False
    if isinstance(data, Mapping):
        lists = list(data.values())
        if isinstance(data.get("detail"), str | list):
            return True
    else:
        lists = [data]
    return bool(lists) and all(map(_is_list_of_texts, lists))


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def _flat(value: object, levels: int = 8) -> list[str]:
    """The messages in a nested error body, as one list.

    Anything nested deeper than `levels` becomes "…", so that no body can exhaust the stack.
    """
    if isinstance(value, Mapping | list) and not levels:
        return ["…"]
    if isinstance(value, Mapping):
        return [
            f"{name}: {text}" for name, inner in value.items() for text in _flat(inner, levels - 1)
        ]
    if isinstance(value, list):
        return [text for inner in value for text in _flat(inner, levels - 1)]
    return [] if value is None else [_clip(str(value))]


def _text_of_html(body: bytes) -> str:
    """The title of an HTML page, or its first words if it has none; also for plain text."""
    text = body[:_HTML_HEAD_BYTES].decode("utf-8", "replace")
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    words = title.group(1) if title else re.sub(r"<[^>]*>", " ", text)
    return _clip(" ".join(words.split()))


def _clip(text: str) -> str:
    return text if len(text) <= _DETAIL_LIMIT else text[: _DETAIL_LIMIT - 1] + "…"


# --- Responses: times ----------------------------------------------------------------------------

_SECONDS: Final = r"[0-9]+(\.[0-9]+)?"
_MAX_SECONDS: Final = 1e18
"""The longest `Retry-After` in seconds, so that arithmetic with it stays finite."""


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """The time in seconds that `Retry-After` asks to wait; None if it is missing or invalid.

    It may be a number of seconds or a date (RFC 9110, 10.2.3); fractions of seconds are accepted as
    well. A date is measured from the `Date` of the response, so that a wrong clock on either side
    does not matter. Without `Date`, it is measured from `now`, by default the current time.
    """
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(_SECONDS, text):
        return min(float(text), _MAX_SECONDS)
    when = http_date(text)
    if when is None:
        return None
    seconds = (when - (date_of(headers) or now or datetime.now(UTC))).total_seconds()
    return max(0.0, seconds)


def date_of(headers: Mapping[str, str]) -> datetime | None:
    """The server's time when it responded, from the `Date` header; None if there is none."""
    return http_date(headers.get("Date", ""))


def http_date(text: str) -> datetime | None:
    """An HTTP date as an aware datetime in UTC; None if the text is not a date."""
    try:
        # A zone of `-0000` parses as naive, and means UTC (RFC 5322).
        return as_utc(parsedate_to_datetime(text))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


# --- Responses: values ---------------------------------------------------------------------------


class Response(msgspec.Struct, frozen=True):
    """A successful response, and its request.

    `body` is empty if it could not be read and the status alone shows the success. `attempts` is
    the number of attempts that the request took. `mask` is for what enters an error: what the body
    says is handed out as it is.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    request: Request
    attempts: int = 1
    mask: Mask = unmasked

    def __repr__(self) -> str:
        # Without the headers and the body: tracebacks may show it, and a server may say the token.
        return f"<Response {self.status} to {self.request!r}>"

    def invalid(self, reason: str, place: str = "") -> InvalidResponseError:
        """The error to raise if the body is not what the API documents."""
        return InvalidResponseError(
            self.mask(reason),
            self.mask(place),
            self.status,
            self.request.method,
            API_ROOT + self.request.path,
            request_id(self.headers, self.mask),
        )


_OF_A_PAGE: Final = "Check base_url (or VPS_API_URL): it seems to be that of a web page"


def check_done(response: Response, hint: str) -> None:
    """Raise an error with this hint unless the response, a success by its status, may be one.

    A page of HTML is none: a captive portal or a login page answers with 200 for anything. Nor is a
    JSON object with `"success": false` or an `error`. Any other body may be, since the API
    documents none.

    Raises `InvalidResponseError`.
    """
    error = _error_of_done(response)
    if error is not None:
        error.hint = hint
        raise error  # from here, as a traceback may show local variables: no text is one


def _error_of_done(response: Response) -> InvalidResponseError | None:
    if _is_page(response):
        title = _text_of_html(response.body)
        return response.invalid(f"the body is a page of HTML, not the API's: {title!r}")
    failure = _failure_of(response.body)
    if failure is None:
        return None
    return response.invalid(f"the body tells of a failure: {failure or 'without a reason'!r}")


def _failure_of(body: bytes) -> str | None:
    """The words of a JSON object that tells of a failure; None for any other body."""
    try:
        data = msgspec.json.decode(body)
    except _BAD_JSON:
        return None
    if not isinstance(data, Mapping) or not (data.get("success") is False or data.get("error")):
        return None
    words = (data.get(name) for name in ("error", *_DETAIL_KEYS))
    return _clip("; ".join(_flat(next(filter(None, words), None))))


def _is_page(response: Response) -> bool:
    """Whether the body is a page of HTML, by its first character or, unless it is JSON, its type.

    An empty body is none, whatever its type.
    """
    text = response.body.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text or text[:1] in {b"{", b"["}:
        return False
    content = response.headers.get("Content-Type", "").lower()
    return text.startswith(b"<") or content.startswith(("text/html", "application/xhtml"))


class _BackupsDoc(TypedDict, total=False):
    """The JSON object of a page of backups, as msgspec gives it: with the keys that are there."""

    results: Required[tuple[Backup, ...]]
    count: Annotated[int, msgspec.Meta(ge=0)] | None
    next: str | None
    previous: str | None


_COMMAS: Final = 9
"""Commas per backup: between its eight fields, between its server's two, and one after it."""
_QUOTES: Final = 30
"""Quotation marks per backup: of its ten keys and of its five strings that are never null."""


def read_page(response: Response) -> Page[Backup]:
    """The page of backups in a list's response.

    A bare JSON array counts as the only page. The fast path takes only pages that msgspec decodes
    as they are. It leaves all others, invalid ones included, to the converter. For a page that both
    accept, both return equal values.

    Raises `InvalidResponseError`, which names the place of the invalid value.
    """
    return _fast_page(response.body) or _plain_page(response)


def _fast_page(body: bytes) -> Page[Backup] | None:
    """The page decoded by msgspec alone; None if that does not suffice."""
    try:
        doc = _PAGE_DECODER.decode(body)
    except _BAD_JSON:
        return None
    backups = doc["results"]
    for backup in backups:
        if backup.created_at.tzinfo is not UTC:
            return None
        if (expires := backup.expires_at) is not None and expires.tzinfo is not UTC:
            return None
    if not _has_known_fields_only(body, doc):
        return None
    return Page(backups, doc.get("count"), doc.get("next") or None, doc.get("previous") or None)


def _has_known_fields_only(body: bytes, doc: _BackupsDoc) -> bool:
    """Whether the page certainly has no unknown fields, which msgspec skips silently.

    It compares the number of commas in the body with the number that the known fields need, and
    then the number of quotation marks. All known fields are present at this point, so an unknown
    field raises both numbers. Commas or quotation marks inside texts raise them too, but rarely
    both; then the converter decides.
    """
    backups, links = len(doc["results"]), len(doc) - 1
    if body.count(b",") == links + (_COMMAS * backups - 1 if backups else 0):
        return True
    texts = (type(doc.get("next")) is str) + (type(doc.get("previous")) is str)
    expiring = sum(backup.expires_at is not None for backup in doc["results"])
    return body.count(b'"') == 2 + 2 * links + 2 * texts + _QUOTES * backups + 2 * expiring


def _plain_page(response: Response, item: type[Any] = Backup) -> Page[Any]:
    """The page of such items, decoded by the converter."""
    doc = _structure(response, _codec().PageDoc[item])
    if doc.count is not None and doc.count < 0:
        raise response.invalid(f"expected a number of items, got {doc.count}", "count")
    return Page(doc.results, doc.count, doc.next or None, doc.previous or None)


def read_backup(response: Response) -> Backup:
    """The backup in a create's response; raises `InvalidResponseError` if it is invalid."""
    backup: Backup = _structure(response, Backup)
    return backup


def read_account(response: Response) -> Account:
    """The account in the response, with the token masked, should the API show it.

    Raises `InvalidResponseError` if it is invalid.
    """
    account: Account = _structure(_masked(response), Account)
    return account


def _masked(response: Response) -> Response:
    text = response.mask(response.body.decode("utf-8", "surrogateescape"))
    return replace(response, body=text.encode("utf-8", "surrogateescape"))


def read_restore(response: Response, server_id: int, backup_id: int) -> Restore:
    """The result of a restore; any body is accepted, since the API does not document it."""
    try:
        data = msgspec.json.decode(response.body)
    except _BAD_JSON:
        data = None
    fields = data if isinstance(data, Mapping) else {}
    texts = (fields.get(name) for name in ("message", "detail"))
    message = next((text for text in texts if isinstance(text, str)), None)
    return Restore(server_id, backup_id, response.status, message, data)


class Listing(msgspec.Struct, Generic[T], frozen=True):
    """An endpoint that returns a list: its path below the API's root, and its page reader.

    `filters` has the parameters that filter the list, each with a function that gives those of some
    items that fit a value: one call a page costs less than one an item.
    """

    path: str
    read: Callable[[Response], Page[T]]
    filters: Mapping[str, Callable[[Iterable[T], Any], list[T]]]
    hints: Mapping[int, str] = {}
    """What to do where the list of all is refused with this status."""
    hints_of_a_server: Mapping[int, str] = {}
    """The same for the list of one server."""

    def request(self, query: str) -> Request:
        """The request for a page; `query` must be URL-encoded."""
        return Request("list", _READ, "GET", self.path, query)


BACKUPS: Final = Listing(
    "/backups/",
    read_page,
    {
        "server_id": lambda backups, value: [one for one in backups if one.server.id == value],
        "backup_type": lambda backups, value: [one for one in backups if one.backup_type == value],
    },
    {
        403: "Ask the owner of the account for a token that may read backups",
        404: "Check base_url (or VPS_API_URL): no list of backups is there",
    },
    {404: NO_SUCH_SERVER},
)
"""The list of backups, of all servers or filtered by the query."""

SERVERS: Final[Listing[Server]] = Listing(
    "/servers/",
    lambda response: _plain_page(response, Server),
    {
        # A server whose status or location the API leaves out may be meant.
        "status": lambda servers, value: [one for one in servers if one.status in {"", value}],
        "location": lambda servers, value: [one for one in servers if one.location in {"", value}],
    },
    {
        403: "Name the servers by their ids: this token is not given the list of the account's "
        "servers",
        404: "Check base_url (or VPS_API_URL): no list of servers is there. Name the servers by "
        "their ids where everything else works",
    },
)
"""The list of the account's servers, all or filtered by the query."""


def _structure(response: Response, kind: Any) -> Any:
    """The value of this class in the body; raises `InvalidResponseError` if it is invalid."""
    value = _value_or_error(response, kind)
    if isinstance(value, InvalidResponseError):
        raise value  # from here, as a traceback may show local variables: no body is one
    return value


def _value_or_error(response: Response, kind: Any) -> Any:
    try:
        data = msgspec.json.decode(response.body)
    except _BAD_JSON as error:
        content = response.headers.get("Content-Type") or "no content type"
        start = _text_of_html(response.body[:200])
        page = _is_page(response)
        reason = "the body is not JSON but a web page" if page else f"the body is not JSON: {error}"
        invalid = response.invalid(f"{reason} ({content}, it begins with {start!r})")
        if page:
            invalid.hint = _OF_A_PAGE
        return invalid
    codec = _codec()
    try:
        return codec.converter().structure(data, kind)
    except Exception as error:  # noqa: BLE001  # a group of the hooks' errors
        return response.invalid(*codec.reason_and_place(error))


def _codec() -> ModuleType:
    """The converter's module, imported on first use.

    Importing cattrs would take about a sixth of the package's import time.
    """
    from vpsbackups_async import _codec  # noqa: PLC0415  # few responses need it

    return _codec


V = TypeVar("V", Backup, BackupRef, Server)


def to_json(value: AttrsInstance) -> bytes:
    """The value as one line of JSON in UTF-8, to store, log or stream.

    The value is a `Backup`, a `BackupRef`, a `Server` or a `PrunePlan`.

    A backup or server has the form that the API documents, with times in UTC, and keeps the fields
    that this version of the library does not know. `from_json` reads the value back.
    """
    text: bytes = _codec().converter().dumps(value)
    return text


def from_json(kind: type[V], text: bytes | str) -> V:
    """The value that `to_json` wrote; `kind` is its class, such as `Backup`.

    The text is checked as strictly as a response of the API, since stored text may come from
    anywhere. Raises `ValueError`, which names the place of the invalid value.
    """
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    codec = _codec()
    try:
        value: V = codec.converter().loads(raw, kind)
    except _BAD_JSON as error:
        reason = str(error)
    except Exception as error:  # noqa: BLE001  # a group of the hooks' errors
        why, place = codec.reason_and_place(error)
        reason = f"{why} at {place}" if place else why
    else:
        return value
    raise ValueError(f"that is not the JSON of a {kind.__name__}: {reason}")


_PAGE_DECODER: Final = msgspec.json.Decoder(_BackupsDoc)
