"""Requests and responses: request values, errors, `Retry-After`, places of invalid values."""

import enum
import json
import time
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from vpsbackups_async import (
    ApiError,
    AuthenticationError,
    BackupsClient,
    BackupType,
    BadRequestError,
    ConflictError,
    InvalidResponseError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    Restore,
    ServerError,
    _wire,
)
from vpsbackups_async._lists.lists import backups_query
from vpsbackups_async.testing import FakeVPS
from vpsbackups_async.testing import Reply as Answer

DATA = Path(__file__).parent / "data"
BACKUP: dict[str, Any] = {
    "id": 501,
    "server": {"id": 12345, "name": "web-server-01"},
    "backup_type": "automatic",
    "status": "completed",
    "size_mb": 4523,
    "created_at": "2025-01-16T03:00:00Z",
    "expires_at": None,
    "description": "Automatic daily backup",
}
DEEP = b"[" * 100_000 + b"]" * 100_000
BAD_IDS = ["../x", "a/b", "", ".", "501", True, False, -1, 0, 1.0, float("nan"), b"5", [], object()]


class Server(int, enum.Enum):
    """A caller's own names for ids: its members are ints that print as something else."""

    WEB = 12345


def reply(
    body: bytes | object, status: int = 200, headers: dict[str, str] | None = None
) -> _wire.Response:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return _wire.Response(status, CIMultiDict(headers or {}), raw, _wire.BACKUPS.request(""))


def refusal(status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> ApiError:
    """The error that a reply becomes."""
    return _wire.decipher(
        status,
        CIMultiDict(headers or {}),
        body,
        method="DELETE",
        path="/api/v1/backups/501/",
        attempts=3,
    )


# --- Requests ------------------------------------------------------------------------------------


def test_each_request_has_the_method_the_exact_slash_and_the_body_that_the_api_documents() -> None:
    listing = _wire.BACKUPS.request("page=2&page_size=50")
    assert (listing.method, listing.path, listing.query, listing.body) == (
        "GET",
        "/backups/",
        "page=2&page_size=50",
        None,
    )
    create = _wire.create_request(12345, "Pre-deployment backup")
    assert (create.method, create.path, create.query) == ("POST", "/backups/", "")
    assert json.loads(create.body or b"") == {
        "server_id": 12345,
        "description": "Pre-deployment backup",
    }
    delete = _wire.delete_request(501)
    assert (delete.method, delete.path, delete.body) == ("DELETE", "/backups/501/", None)
    restore = _wire.restore_request(12345, 501)
    assert (restore.method, restore.path) == ("POST", "/servers/12345/restore/")
    assert json.loads(restore.body or b"") == {"backup_id": 501}


@pytest.mark.parametrize(
    ("request_", "policy"),
    [
        (_wire.BACKUPS.request(""), _wire.Policy(idempotent=True, reads=True)),
        (_wire.create_request(1, None), _wire.Policy(unreadable="accepted")),
        (
            _wire.delete_request(1),
            _wire.Policy(idempotent=True, success_by_status=True, missing_means_done=True),
        ),
        (_wire.restore_request(1, 1), _wire.Policy(success_by_status=True)),
    ],
    ids=["list", "create", "delete", "restore"],
)
def test_each_request_says_what_its_failures_mean(
    request_: _wire.Request, policy: _wire.Policy
) -> None:
    assert request_.policy == policy


def test_a_policy_that_says_nothing_is_the_most_careful_one() -> None:
    assert _wire.Policy() == _wire.Policy(
        idempotent=False,
        reads=False,
        success_by_status=False,
        missing_means_done=False,
        unreadable="failed",
    )


def test_a_create_without_a_description_does_not_mention_one() -> None:
    assert json.loads(_wire.create_request(5, None).body or b"") == {"server_id": 5}


def test_an_empty_description_is_sent_as_it_is() -> None:
    body = json.loads(_wire.create_request(5, "").body or b"")
    assert body == {"server_id": 5, "description": ""}


@pytest.mark.parametrize(
    ("server_id", "backup_type", "page_size", "query"),
    [
        (None, None, None, ""),
        (12345, None, None, "server_id=12345"),
        (None, "manual", None, "backup_type=manual"),
        (None, BackupType.AUTOMATIC, None, "backup_type=automatic"),
        (7, "automatic", 50, "server_id=7&backup_type=automatic&page_size=50"),
        (Server.WEB, None, None, "server_id=12345"),
        (None, None, Server.WEB, "page_size=12345"),
    ],
)
def test_a_list_query_names_only_what_was_asked_for(
    server_id: int | None, backup_type: str | None, page_size: int | None, query: str
) -> None:
    assert backups_query(server_id, backup_type, page_size).text == query


def test_an_enum_member_that_is_an_int_goes_out_as_its_number() -> None:
    assert _wire.delete_request(Server.WEB).path == "/backups/12345/"
    assert _wire.restore_request(Server.WEB, Server.WEB).path == "/servers/12345/restore/"
    assert _wire.create_request(Server.WEB, None).body == b'{"server_id":12345}'


@pytest.mark.parametrize("value", [*BAD_IDS, None])
@pytest.mark.parametrize(
    ("build", "name"),
    [
        (_wire.delete_request, "backup_id"),
        (lambda value: _wire.create_request(value, None), "server_id"),
        (lambda value: _wire.restore_request(value, 1), "server_id"),
        (lambda value: _wire.restore_request(1, value), "backup_id"),
    ],
    ids=["delete", "create", "restore server", "restore backup"],
)
def test_anything_but_a_positive_int_is_no_id(build: Any, name: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be a positive int, not ") as caught:
        build(value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", BAD_IDS)
def test_a_filter_by_server_takes_a_positive_int_or_nothing(value: Any) -> None:
    with pytest.raises(ValueError, match="server_id must be a positive int"):
        backups_query(value, None, None)


@pytest.mark.parametrize("value", [0, -1, True, "10", 1.5])
def test_a_page_size_out_of_range_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="page_size must be a positive int"):
        backups_query(None, None, value)


@pytest.mark.parametrize("value", ["daily", "MANUAL", "AUTOMATIC", "", " manual", 5, ["manual"]])
def test_an_unknown_backup_type_is_refused_and_the_known_ones_are_named(value: Any) -> None:
    with pytest.raises(ValueError, match="'manual' or 'automatic'") as caught:
        backups_query(None, value, None)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("description", [5, b"x", ["x"], True])
def test_a_description_is_a_text(description: Any) -> None:
    with pytest.raises(ValueError, match="description must be a str or None"):
        _wire.create_request(5, description)


@pytest.mark.parametrize("description", ["\ud800", "ok \udfff"])
def test_what_cannot_be_written_as_json_is_a_value_error(description: str) -> None:
    with pytest.raises(ValueError, match="cannot be written as JSON") as caught:
        _wire.create_request(5, description)
    assert type(caught.value) is ValueError


async def test_no_request_is_sent_for_a_bad_argument(fake: FakeVPS, client: BackupsClient) -> None:
    for value in BAD_IDS:
        bad: Any = value
        with pytest.raises(ValueError, match="must be a positive int"):
            await client.delete(bad)
        with pytest.raises(ValueError, match="must be a positive int"):
            await client.create(bad)
        with pytest.raises(ValueError, match="must be a positive int"):
            await client.restore(1, bad)
        with pytest.raises(ValueError, match="must be a positive int"):
            client.list(server_id=bad)
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        await client.create(1, description="\udfff")
    assert fake.requests == []


# --- Error replies -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequestError),
        (401, AuthenticationError),
        (402, ApiError),
        (403, PermissionDeniedError),
        (404, NotFoundError),
        (405, ApiError),
        (409, ConflictError),
        (418, ApiError),
        (422, BadRequestError),
        (429, RateLimitedError),
        (500, ServerError),
        (502, ServerError),
        (503, ServerError),
        (504, ServerError),
        (520, ServerError),
        (599, ServerError),
    ],
)
def test_each_status_has_its_class_and_the_error_knows_its_request(
    status: int, kind: type[ApiError]
) -> None:
    error = refusal(status, b'{"detail": "No."}')
    assert type(error) is kind
    assert (error.status, error.detail, error.field_errors) == (status, "No.", {})
    assert (error.method, error.path, error.attempts) == ("DELETE", "/api/v1/backups/501/", 3)
    assert (error.request_id, error.retry_after) == (None, None)


NESTED = {"server": {"id": ["Wrong."], "name": ["Short.", {"code": "min"}]}, "n": [[1], None]}


@pytest.mark.parametrize(
    ("body", "detail", "fields"),
    [
        (b'{"detail": "Not found."}', "Not found.", {}),
        (b'{"message": "Too many."}', "Too many.", {}),
        (b'{"error": "Gone."}', "Gone.", {}),
        (b'{"detail": null, "message": "Why."}', "Why.", {}),
        (b'{"detail": "", "error": "Why."}', "Why.", {}),
        (b'{"detail": "No.", "code": "not_found", "status": 404}', "No.", {}),
        (b'{"detail": 5}', "5", {}),
        (b'{"server_id": ["Required."]}', "", {"server_id": ["Required."]}),
        (b'{"server_id": "Required."}', "", {"server_id": ["Required."]}),
        (b'{"a": ["1", "2"], "b": null}', "", {"a": ["1", "2"], "b": []}),
        (b'{"detail": "No.", "a": ["1"]}', "No.", {"a": ["1"]}),
        (b'{"detail": ["a", "b"]}', "", {"detail": ["a", "b"]}),
        (b'{"detail": {"x": ["y"]}}', "", {"detail": ["x: y"]}),
        (
            json.dumps(NESTED).encode(),
            "",
            {"server": ["id: Wrong.", "name: Short.", "name: code: min"], "n": ["1"]},
        ),
        (b'["One.", ["Two."], {"a": "Three."}]', "One.; Two.; a: Three.", {}),
        (b'"Just a text."', "Just a text.", {}),
        (b"503", "503", {}),
        (b"null", "", {}),
        (b"{}", "", {}),
        (b'{"status": ["No such choice."]}', "", {"status": ["No such choice."]}),
        (b'{"status": 400, "code": "invalid"}', "", {}),
        (b"[]", "", {}),
        (b"", "", {}),
        (b"  \n", "", {}),
        (b"<html><head><TITLE lang=cy>502\n Bad  Gateway</TITLE></head>x", "502 Bad Gateway", {}),
        (b"<h1>Not <b>here</b></h1>\n<p>Sorry", "Not here Sorry", {}),
        (b"upstream connect error", "upstream connect error", {}),
        (b"\xff\xfe nothing", "\ufffd\ufffd nothing", {}),
        (b'{"detail": "\xff"}', '{"detail": "\ufffd"}', {}),
        (b'{"detail": "cut o', '{"detail": "cut o', {}),
    ],
)
def test_every_form_of_an_error_body_is_read(
    body: bytes, detail: str, fields: dict[str, list[str]]
) -> None:
    error = refusal(400, body)
    assert error.detail == detail
    assert error.field_errors == fields
    assert all(
        text in str(error)
        for text in (detail.strip(), *(t for said in fields.values() for t in said))
    )


@pytest.mark.parametrize(
    "body",
    [
        DEEP,
        b'{"detail": ' + DEEP + b"}",
        b'{"detail": ' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"a": ' + b'{"b": ' * 300 + b"1" + b"}" * 300 + b"}",
        b'["' + b"x" * 60_000 + b'"]',
        b'{"' + b"y" * 60_000 + b'": ["z"]}',
    ],
    ids=["bomb", "bomb in detail", "deep list", "deep object", "long text", "long name"],
)
def test_a_body_made_to_hurt_is_still_the_typed_error_and_prints_short(body: bytes) -> None:
    error = refusal(500, body)
    assert type(error) is ServerError
    assert len(error.detail) <= 500
    assert len(str(error)) < 1_200


def test_only_the_beginning_of_a_page_is_searched_for_words() -> None:
    """Else 64 KiB of `<` would hold up the event loop for seconds."""
    assert refusal(502, b"<title>Early</title>" + b"<" * 65_536).detail == "Early"
    assert refusal(502, b"<" * 65_536 + b"<title>Late</title>").detail == "<" * 499 + "…"


@pytest.mark.parametrize(
    ("headers", "request_id"),
    [
        ({}, None),
        ({"X-Request-ID": "r1"}, "r1"),
        ({"x-request-id": "r1"}, "r1"),
        ({"X-Correlation-ID": "c1"}, "c1"),
        ({"X-Amzn-Trace-Id": "t1"}, "t1"),
        ({"CF-Ray": "f1"}, "f1"),
        ({"CF-Ray": "f1", "X-Request-ID": "r1"}, "r1"),
        ({"X-Request-ID": "", "CF-Ray": "f1"}, "f1"),
    ],
)
def test_the_request_id_comes_from_whichever_header_has_it(
    headers: dict[str, str], request_id: str | None
) -> None:
    error = refusal(500, headers=headers)
    assert error.request_id == request_id
    assert request_id is None or request_id in str(error)


async def test_an_error_reply_arrives_as_the_typed_error_with_all_that_is_known(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.inject(
        Answer(400, b'{"server_id": ["Nope."]}', headers={"X-Request-ID": "abc"}, method="DELETE")
    )
    with pytest.raises(BadRequestError) as caught:
        await client.delete(501)
    error = caught.value
    assert (error.field_errors, error.request_id, error.method, error.path, error.attempts) == (
        {"server_id": ["Nope."]},
        "abc",
        "DELETE",
        "/api/v1/backups/501/",
        1,
    )


# --- Retry-After ---------------------------------------------------------------------------------

NOW = datetime(2025, 1, 16, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5.0),
        (" 5 ", 5.0),
        ("0", 0.0),
        ("0.5", 0.5),
        ("0." + "3" * 40, 1 / 3),
        ("007", 7.0),
        ("9999999999", 9_999_999_999.0),
        ("9" * 30, 1e18),
        ("9" * 5_000, 1e18),
        ("Thu, 16 Jan 2025 12:00:30 GMT", 30.0),
        ("Thu, 16 Jan 2025 11:59:30 GMT", 0.0),
        ("Thu, 16 Jan 2025 12:00:30 -0000", 30.0),
        ("Thu, 16 Jan 2025 13:00:30 +0100", 30.0),
        ("Thursday, 16-Jan-25 12:00:30 GMT", 30.0),
        ("Thu Jan 16 12:00:30 2025", 30.0),
        ("-5", None),
        ("+5", None),
        ("nan", None),
        ("inf", None),
        ("-inf", None),
        ("1_000", None),
        ("1e3", None),
        ("0x10", None),
        ("2814, 2", None),
        ("5.", None),
        (".5", None),
        ("5 s", None),
        ("", None),
        ("   ", None),
        ("soon", None),
        ("\uff15", None),
        ("\u0665", None),
        ("Thu, 16 Jan 99999999999999999999 12:00:00 GMT", None),
        ("Thu, 99 Jan 2025 12:00:00 GMT", None),
        ("Thu, 16 Jan 2025 99:00:00 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 -2359", None),
    ],
)
def test_retry_after_is_read_in_both_forms_and_anything_else_says_nothing(
    text: str, seconds: float | None
) -> None:
    assert _wire.retry_after(CIMultiDict({"Retry-After": text}), NOW) == pytest.approx(seconds)


def test_without_the_header_nothing_is_asked() -> None:
    assert _wire.retry_after({}, NOW) is None


def test_a_date_is_measured_against_the_replys_own_clock() -> None:
    headers = CIMultiDict(
        {
            "Retry-After": "Tue, 01 Jan 2030 00:01:00 GMT",
            "Date": "Tue, 01 Jan 2030 00:00:00 GMT",
        }
    )
    assert _wire.retry_after(headers, NOW) == 60.0
    assert _wire.retry_after(headers) == 60.0


def test_a_date_beside_an_unreadable_clock_is_measured_against_ours() -> None:
    headers = CIMultiDict({"Retry-After": "Thu, 16 Jan 2025 12:01:00 GMT", "Date": "noon"})
    assert _wire.retry_after(headers, NOW) == 60.0


def test_a_date_without_any_clock_is_measured_against_the_time_of_day() -> None:
    assert _wire.retry_after({"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}) == 0.0
    asked = _wire.retry_after({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"})
    assert asked is not None
    assert asked > 1e9


@given(st.text() | st.from_regex(r"[A-Za-z]{3}, \d{1,3} [A-Za-z]{3} \d{1,9} [\d:]{1,9} \S{0,6}"))
def test_no_retry_after_is_an_exception_and_each_answer_is_finite(text: str) -> None:
    asked = _wire.retry_after({"Retry-After": text, "Date": text[::-1]}, NOW)
    assert asked is None or 0 <= asked <= 1e18


@given(st.datetimes(datetime(1971, 1, 1), datetime(9000, 1, 1)), st.integers(-1439, 1439))  # noqa: DTZ001
def test_an_http_date_is_aware_utc_whatever_its_zone(when: datetime, minutes: int) -> None:
    local = when.replace(microsecond=0, tzinfo=timezone(timedelta(minutes=minutes)))
    read = _wire.http_date(f"{local:%d %b} {local.year:04} {local:%H:%M:%S %z}")
    assert read == local
    assert read is not None
    assert read.tzinfo is UTC


# --- Replies that do not fit ---------------------------------------------------------------------


def with_changes(**changes: object) -> dict[str, Any]:
    """The backup with other fields; `...` leaves one out."""
    return {name: said for name, said in (BACKUP | changes).items() if said is not ...}


def page_with(**changes: object) -> dict[str, Any]:
    """A page whose fourth backup is spoilt."""
    return {"count": 4, "results": [BACKUP, BACKUP, BACKUP, with_changes(**changes)]}


@pytest.mark.parametrize(
    ("said", "place", "reason"),
    [
        (page_with(created_at="yesterday"), "results[3].created_at", "ISO 8601 time, got 'yest"),
        (page_with(created_at=None), "results[3].created_at", "expected str, got None"),
        (page_with(created_at=1_700_000_000), "results[3].created_at", "expected str, got 17"),
        (page_with(created_at="0001-01-01T00:00:00+05:00"), "results[3].created_at", "ISO 8601"),
        (page_with(expires_at=""), "results[3].expires_at", "ISO 8601 time, got ''"),
        (page_with(id="501"), "results[3].id", "expected int, got '501'"),
        (page_with(id=501.0), "results[3].id", "expected int, got 501.0"),
        (page_with(id=True), "results[3].id", "expected int, got True"),
        (page_with(id=...), "results[3].id", "a required field is missing"),
        (page_with(status=None), "results[3].status", "expected str, got None"),
        (page_with(backup_type=1), "results[3].backup_type", "expected str, got 1"),
        (page_with(size_mb="4523"), "results[3].size_mb", "expected int"),
        (page_with(description=["x" * 99]), "results[3].description", "got ['xxx"),
        (page_with(message=5), "results[3].message", "expected str, got 5"),
        (page_with(server=...), "results[3].server", "a required field is missing"),
        (page_with(server=None), "results[3].server", "expected an object, got None"),
        (page_with(server=12345), "results[3].server", "expected an object, got 12345"),
        (page_with(server={"id": "1", "name": ""}), "results[3].server.id", "expected int"),
        (page_with(server={"name": "x"}), "results[3].server.id", "a required field is missing"),
        (page_with(server={"id": 1, "name": 2}), "results[3].server.name", "expected str"),
        ([BACKUP, 5], "results[1]", "expected an object, got 5"),
        ({"results": [None]}, "results[0]", "expected an object, got None"),
        ({"results": None}, "results", "expected a list, got None"),
        ({"results": {}}, "results", "expected a list, got {}"),
        ({"results": ""}, "results", "expected a list, got ''"),
        ({"results": 5}, "results", "expected a list, got 5"),
        ({}, "results", "a required field is missing"),
        ({"results": [], "count": "3"}, "count", "expected int, got '3'"),
        ({"results": [], "count": 1.5}, "count", "expected int, got 1.5"),
        ({"results": [], "next": 5}, "next", "expected str, got 5"),
        ({"results": [], "previous": False}, "previous", "expected str, got False"),
        (5, "", "expected an object, got 5"),
        (None, "", "expected an object, got None"),
        ("x", "", "expected an object, got 'x'"),
    ],
)
def test_a_page_that_does_not_fit_names_the_place_the_status_and_the_request(
    said: object, place: str, reason: str
) -> None:
    with pytest.raises(InvalidResponseError) as caught:
        _wire.read_page(reply(said, 203, {"X-Request-ID": "r1"}))
    error = caught.value
    assert error.place == place
    assert reason in error.reason
    assert len(error.reason) < 120
    assert (error.status, error.method, error.path) == (203, "GET", "/api/v1/backups/")
    assert error.request_id == "r1"
    assert all(
        known in str(error) for known in (place, reason, "203", "GET /api/v1/backups/", "r1")
    )
    assert error.__cause__ is None
    assert error.__context__ is None


NO_JSON = [
    b"",
    b"<html><title>Log in</title>",
    b"\xff\xfe",
    b"\xef\xbb\xbf{}",
    b'{"results": []',
    b'{"results": []} x',
    b"{'results': []}",
    b'{"results": [], "count": NaN}',
    b'{"results": [{"description": "\xff"}]}',
    b'{"results": [{"description": "\\ud800"}]}',
    b'{"count": ' + b"9" * 5_000 + b', "results": []}',
    b'{"results": [], "x": ' + DEEP + b"}",
    DEEP,
]


@pytest.mark.parametrize("body", NO_JSON)
@pytest.mark.parametrize("read", [_wire.read_page, _wire.read_backup])
def test_a_body_that_is_no_json_is_refused_without_a_librarys_own_error(
    body: bytes, read: Any
) -> None:
    with pytest.raises(InvalidResponseError, match="not JSON") as caught:
        read(reply(body, headers={"Content-Type": "text/html"}))
    assert "text/html" in str(caught.value)
    assert caught.value.__context__ is None


def test_a_page_of_html_is_quoted_by_its_title() -> None:
    with pytest.raises(InvalidResponseError, match=r"no content type, it begins with 'Log in'"):
        _wire.read_page(reply(b"<html><title>Log\n in</title>"))


def test_a_value_nested_too_deep_to_print_is_refused_as_well() -> None:
    deep = b"[" * 700 + b"]" * 700
    with pytest.raises(InvalidResponseError) as caught:
        _wire.read_page(reply(b'{"results": [' + deep + b"]}"))
    assert caught.value.place in {"results[0]", ""}


def test_a_page_of_nonsense_is_refused_at_its_first_item() -> None:
    """Else the errors of all items would be collected, which are gigabytes for a megabyte."""
    answer = reply(b'{"results": [' + b",".join([b"{}"] * 10_000) + b"]}")
    tracemalloc.start()
    try:
        with pytest.raises(InvalidResponseError) as caught:
            _wire.read_page(answer)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.place == "results[0].id"
    assert peak < 5 * 2**20


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ([], ""),
        (with_changes(server={"id": None}), "server.id"),
        (with_changes(id=...), "id"),
        (with_changes(message=[]), "message"),
    ],
)
def test_a_create_that_does_not_fit_names_the_place(said: object, place: str) -> None:
    with pytest.raises(InvalidResponseError) as caught:
        _wire.read_backup(reply(said, 201))
    assert caught.value.place == place


async def test_a_200_that_is_no_json_is_an_invalid_response_with_its_request(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.inject(Answer(200, b"<title>Maintenance</title>"))
    with pytest.raises(InvalidResponseError, match="Maintenance") as caught:
        await client.list().collect()
    assert (caught.value.status, caught.value.method) == (200, "GET")
    assert caught.value.path == "/api/v1/backups/"


# --- Restores ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 204, 207])
@pytest.mark.parametrize(
    ("body", "message", "data"),
    [
        (b"", None, None),
        (b"OK", None, None),
        (b"<title>Done</title>", None, None),
        (b"\xff", None, None),
        (DEEP, None, None),
        (b"null", None, None),
        (b"true", None, True),
        (b'"started"', None, "started"),
        (b"[1]", None, [1]),
        (b'{"message": "Restoring."}', "Restoring.", {"message": "Restoring."}),
        (b'{"detail": "Restoring."}', "Restoring.", {"detail": "Restoring."}),
        (b'{"message": null, "detail": "d"}', "d", {"message": None, "detail": "d"}),
        (b'{"message": {"a": 1}}', None, {"message": {"a": 1}}),
        (b'{"status": "restoring"}', None, {"status": "restoring"}),
    ],
)
def test_a_restore_is_accepted_with_any_2xx_and_any_body_or_none(
    status: int, body: bytes, message: str | None, data: object
) -> None:
    assert _wire.read_restore(reply(body, status), 12345, 501) == Restore(
        12345, 501, status, message, data
    )


def test_a_restore_whose_message_is_nested_too_deep_to_print_is_accepted() -> None:
    deep = b"[" * 700 + b"]" * 700
    restore = _wire.read_restore(reply(b'{"message": ' + deep + b"}"), 1, 2)
    assert restore.message is None


# --- Times ---------------------------------------------------------------------------------------


@pytest.fixture(params=["Asia/Shanghai", "America/St_Johns", "UTC"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Another local time zone, as if the machine stood there."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("2025-01-16T03:00:00Z", datetime(2025, 1, 16, 3, tzinfo=UTC)),
        ("2025-01-16T03:00:00z", datetime(2025, 1, 16, 3, tzinfo=UTC)),
        ("2025-01-16T03:00:00", datetime(2025, 1, 16, 3, tzinfo=UTC)),
        ("2025-01-16 03:00:00", datetime(2025, 1, 16, 3, tzinfo=UTC)),
        ("2025-01-16T03:00:00.25", datetime(2025, 1, 16, 3, 0, 0, 250_000, tzinfo=UTC)),
        ("2025-01-16T03:00:00.123456Z", datetime(2025, 1, 16, 3, 0, 0, 123_456, tzinfo=UTC)),
        ("2025-01-16T03:00:00+00:00", datetime(2025, 1, 16, 3, tzinfo=UTC)),
        ("2025-01-16T03:00:00-00:00", datetime(2025, 1, 16, 3, tzinfo=UTC)),
        ("2025-01-16T11:00:00+08:00", datetime(2025, 1, 16, 3, tzinfo=UTC)),
        ("2025-01-15T23:30:00-03:30", datetime(2025, 1, 16, 3, tzinfo=UTC)),
    ],
)
def test_every_time_is_aware_utc_wherever_the_machine_stands(
    zone: str, text: str, when: datetime
) -> None:
    said = with_changes(created_at=text, expires_at=text)
    for backup in (_wire.read_page(reply([said])).items[0], _wire.read_backup(reply(said))):
        for read in (backup.created_at, backup.expires_at):
            assert read == when
            assert read is not None
            assert read.tzinfo is UTC


def test_a_retry_after_without_a_zone_is_utc_wherever_the_machine_stands(zone: str) -> None:
    for text in ("Thu, 16 Jan 2025 12:00:30 -0000", "Thu Jan 16 12:00:30 2025"):
        assert _wire.retry_after({"Retry-After": text}, NOW) == 30.0
