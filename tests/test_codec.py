"""The two ways of decoding a page give equal values for the same bytes, and refuse the same bytes.

The fast path takes what needs no repair; whatever it takes, the plain path must take as well, with
the same value down to each type. What it leaves, the plain path decides alone.
"""

import hashlib
import json
import pickle
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import fields, frozen
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from vpsbackups_async import (
    Backup,
    BackupRef,
    BackupStatus,
    BackupType,
    InvalidResponseError,
    Page,
    ServerRef,
    _wire,
    from_json,
    to_json,
)
from vpsbackups_async.models import DetailedBackup

DATA = Path(__file__).parent / "data"
LIST = (DATA / "list.json").read_bytes()
CREATE = (DATA / "create.json").read_bytes()

SERVER = ServerRef(12345, "web-server-01")
DAILY = "Automatic daily backup"
LISTED = Page(
    items=(
        Backup(
            501,
            SERVER,
            BackupType.AUTOMATIC,
            BackupStatus.COMPLETED,
            4523,
            datetime(2025, 1, 16, 3, tzinfo=UTC),
            datetime(2025, 2, 16, 3, tzinfo=UTC),
            DAILY,
        ),
        Backup(
            499,
            SERVER,
            BackupType.MANUAL,
            BackupStatus.COMPLETED,
            4456,
            datetime(2025, 1, 14, 10, 30, tzinfo=UTC),
            None,
            "Pre-update backup",
        ),
        Backup(
            495,
            SERVER,
            BackupType.AUTOMATIC,
            BackupStatus.COMPLETED,
            4389,
            datetime(2025, 1, 15, 3, tzinfo=UTC),
            datetime(2025, 2, 15, 3, tzinfo=UTC),
            DAILY,
        ),
    ),
    count=3,
)
CREATED = DetailedBackup(
    502,
    SERVER,
    BackupType.MANUAL,
    BackupStatus.IN_PROGRESS,
    None,
    datetime(2025, 1, 16, 15, 45, tzinfo=UTC),
    None,
    "Pre-deployment backup",
    "Backup is being created. This may take several minutes depending on server size.",
)


def reply(body: bytes, status: int = 200) -> _wire.Response:
    return _wire.Response(status, {}, body, _wire.BACKUPS.request(""))


def plain(body: bytes) -> Page:
    return _wire._plain_page(reply(body))


def anatomy(value: Any) -> Any:
    """The value with the type of each part, for equality alone takes 1 for True and 1.0."""
    if isinstance(value, tuple | list):
        return type(value), [anatomy(part) for part in value]
    if isinstance(value, dict):
        return dict, [(anatomy(key), anatomy(part)) for key, part in value.items()]
    if isinstance(value, datetime):
        return type(value), value, value.tzinfo is UTC
    if hasattr(value, "__attrs_attrs__"):
        return type(value), [
            (part.name, anatomy(getattr(value, part.name))) for part in fields(type(value))
        ]
    return type(value), repr(value)


# --- The provider's examples ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "digest"),
    [
        (LIST, "b7ca7ae30ba00c31381334ae6389e50978e7e48c5d10d91f57a53c087d0ea9ca"),
        (CREATE, "e01310b04f6b191071a313b311584119ec6e148a55f7cfbf706fb7446ff2a082"),
    ],
    ids=["list", "create"],
)
def test_the_examples_are_the_providers_byte_for_byte(body: bytes, digest: str) -> None:
    assert hashlib.sha256(body).hexdigest() == digest


def test_the_documented_list_decodes_to_equal_values_through_both_paths() -> None:
    fast = _wire._fast_page(LIST)
    assert fast == LISTED
    assert plain(LIST) == LISTED
    assert _wire.read_page(reply(LIST)) == LISTED
    assert anatomy(fast) == anatomy(plain(LIST)) == anatomy(LISTED)


@pytest.mark.parametrize("more", [{}, {"zone": "b"}, {"message": "made"}], ids=repr)
@pytest.mark.parametrize("extra", [{"region": "eu"}, {"extra": {"id": 9}, "x": [None, {"y": 1}]}])
def test_unknown_fields_of_a_server_are_kept_and_written_again(
    extra: dict[str, Any], more: dict[str, Any]
) -> None:
    given = {**json.loads(LIST)["results"][0], **more}
    given["server"] = {**given["server"], **extra}
    body = json.dumps({"count": 1, "results": [given]}).encode()
    backup = _wire.read_page(reply(body)).items[0]
    assert (backup.server.id, backup.server.name) == (12345, "web-server-01")
    assert backup.server.extra == extra
    assert backup.extra == ({"zone": "b"} if "zone" in more else {})
    text = to_json(backup)
    assert json.loads(text)["server"] == given["server"]
    assert from_json(Backup, text) == backup
    assert pickle.loads(pickle.dumps(backup)) == backup
    made = _wire.read_backup(reply(json.dumps(given).encode(), 201))
    assert made == backup


@pytest.mark.parametrize("count", [-1, -5, -(2**70)])
def test_a_negative_count_is_a_misfit(count: int) -> None:
    for body in (
        b'{"count":%d,"results":[]}' % count,
        LIST.replace(b'"count": 3', b'"count": %d' % count),
    ):
        with pytest.raises(InvalidResponseError, match="expected a number of items") as caught:
            _wire.read_page(reply(body))
        assert caught.value.place == "count"


def test_the_documented_create_decodes_to_the_backup_and_its_message() -> None:
    backup = _wire.read_backup(reply(CREATE, 201))
    assert backup == CREATED
    assert anatomy(backup) == anatomy(CREATED)
    assert isinstance(backup, Backup)
    assert backup.extra == {}


def test_the_created_backup_in_a_list_takes_the_plain_path_and_keeps_its_message() -> None:
    body = b'{"count": 1, "results": [' + CREATE + b"]}"
    assert _wire._fast_page(body) is None
    assert _wire.read_page(reply(body)) == Page((CREATED,), 1)


# --- What the fast path takes --------------------------------------------------------------------

BACKUP = json.loads(LIST)["results"][0]


def dump(document: object, **options: Any) -> bytes:
    return json.dumps(document, **options).encode()


def page_of(*backups: object, **others: object) -> dict[str, object]:
    return {
        "count": len(backups),
        "next": None,
        "previous": None,
        "results": list(backups),
        **others,
    }


LINK = "https://admin.vps.org/api/v1/backups/?page=2"


@pytest.mark.parametrize(
    "document",
    [
        page_of(),
        page_of(BACKUP),
        {"results": []},
        {"results": [BACKUP], "count": None},
        page_of(BACKUP, next=LINK, previous=LINK),
        page_of(BACKUP, next=""),
        page_of(BACKUP | {"expires_at": None, "size_mb": None}),
        page_of(BACKUP | {"status": "paused", "backup_type": "weekly"}),
        page_of(BACKUP | {"status": "COMPLETED", "backup_type": "MANUAL"}),
        page_of(BACKUP | {"description": "", "created_at": "2025-01-16T03:00:00.25+00:00"}),
        page_of(BACKUP | {"description": 'Nos da \N{SLEEPING FACE} "wir" \\ \n', "id": 2**70}),
        page_of(BACKUP | {"description": 'As they say: "Nos da", and so on'}),
        page_of(*[BACKUP | {"id": number, "description": "a, b"} for number in range(100)]),
        page_of(*[BACKUP | {"id": number} for number in range(100)]),
    ],
    ids=[
        "no backup",
        "one backup",
        "results alone",
        "count null",
        "both links",
        "an empty link",
        "nulls",
        "unknown words",
        "words in capitals",
        "a fraction of a second",
        "escapes",
        "quotes and a comma",
        "a hundred with commas",
        "a hundred",
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_a_page_that_needs_no_repair_takes_the_fast_path(document: Any, indent: int | None) -> None:
    body = dump(document, indent=indent, ensure_ascii=False)
    fast = _wire._fast_page(body)
    if b'\\",' in body:  # both in texts cost the fast path, not the value
        assert fast is None
    else:
        assert fast is not None
        assert anatomy(fast) == anatomy(plain(body))
    assert _wire.read_page(reply(body)) == plain(body)


@pytest.mark.parametrize(
    "document",
    [
        [BACKUP],
        page_of(BACKUP, took=5),
        page_of(BACKUP, **{"": 5}),
        page_of(BACKUP | {"region": None}),
        page_of(BACKUP | {"": None}),
        page_of(BACKUP | {"message": None}),
        page_of(BACKUP | {"server": {"id": 1, "name": "x", "zone": 5}}),
        page_of(BACKUP | {"server": {"id": 1, "name": None}}),
        page_of({name: BACKUP[name] for name in BACKUP if name != "expires_at"}),
        page_of(
            {name: BACKUP[name] for name in BACKUP if name != "description"} | {"message": "d"}
        ),
        page_of(BACKUP | {"description": None}),
        page_of(BACKUP | {"created_at": "2025-01-16T03:00:00"}),
        page_of(BACKUP | {"expires_at": "2025-01-16T03:00:00+01:00"}),
    ],
    ids=[
        "a bare list",
        "more in the page",
        "more in the page without a name",
        "more in the backup",
        "more in the backup without a name",
        "a message of null",
        "more in the server",
        "a server's name of null",
        "no expires_at",
        "a message instead of a description",
        "a description of null",
        "a time without a zone",
        "a time of another zone",
    ],
)
def test_a_page_that_needs_repair_is_left_to_the_plain_path_and_accepted(document: Any) -> None:
    body = dump(document)
    assert _wire._fast_page(body) is None
    assert len(_wire.read_page(reply(body)).items) == 1


def test_a_deeply_nested_unknown_field_is_no_raw_recursion_error() -> None:
    body = b'{"results": [], "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert _wire._fast_page(body) is None
    with pytest.raises(InvalidResponseError):
        _wire.read_page(reply(body))


# --- What the plain path repairs -----------------------------------------------------------------


def repaired(**changes: object) -> Backup:
    """The one backup of a page in which it looks different; `...` leaves a field out."""
    said = {name: value for name, value in (BACKUP | changes).items() if value is not ...}
    return _wire.read_page(reply(dump(page_of(said)))).items[0]


@pytest.mark.parametrize("name", ["expires_at", "size_mb"])
@pytest.mark.parametrize("value", [None, ...])
def test_a_field_that_may_be_null_may_be_missing(name: str, value: object) -> None:
    backup = repaired(**{name: value})
    assert getattr(backup, name) is None
    assert type(backup) is Backup


@pytest.mark.parametrize("value", [None, ...])
def test_a_missing_description_and_a_null_one_are_empty(value: object) -> None:
    assert repaired(description=value).description == ""


@pytest.mark.parametrize("server", [{"id": 5}, {"id": 5, "name": None}, {"id": 5, "name": ""}])
def test_a_server_without_a_name_has_an_empty_one(server: object) -> None:
    assert repaired(server=server).server == ServerRef(5, "")


def test_unknown_fields_are_kept_in_the_order_of_the_reply() -> None:
    backup = repaired(zone="eu", checksum={"sha": [1, None]}, _hidden=1.5, message="Hi")
    assert list(backup.extra.items()) == [
        ("zone", "eu"),
        ("checksum", {"sha": [1, None]}),
        ("_hidden", 1.5),
    ]
    assert backup.message == "Hi"


def test_an_unknown_status_and_type_keep_their_text_and_count_as_neither_good_nor_bad() -> None:
    for backup in (repaired(status="paused", backup_type="weekly"), repaired(status="x", y=1)):
        assert not backup.status.is_known
        assert not backup.is_completed
        assert not backup.is_failed
    backup = repaired(status="paused", backup_type="weekly")
    assert (backup.status, str(backup.status), backup.backup_type) == ("paused", "paused", "weekly")
    assert not backup.is_manual


@pytest.mark.parametrize(
    "links", [{}, {"next": None, "previous": None}, {"next": "", "previous": ""}]
)
def test_no_link_a_null_one_and_an_empty_one_are_all_none(links: dict[str, object]) -> None:
    page = _wire.read_page(reply(dump({"results": [BACKUP], **links})))
    assert (page.count, page.next, page.previous) == (None, None, None)


def test_a_bare_array_is_the_only_page() -> None:
    assert _wire.read_page(reply(dump([BACKUP, BACKUP]))) == Page((LISTED.items[0],) * 2)


def test_a_ref_is_stored_as_plain_json() -> None:
    for ref, text in (
        (BackupRef(502, 12345), b'{"id":502,"server_id":12345}'),
        (BackupRef(502), b'{"id":502,"server_id":null}'),
    ):
        assert to_json(ref) == text
        assert from_json(BackupRef, text) == from_json(BackupRef, text.decode()) == ref


@pytest.mark.parametrize(
    "more", [{}, {"region": {"name": "fra"}}, {"message": "Started."}, {"message": "", "x": None}]
)
def test_a_backup_is_written_as_the_api_wrote_it(more: dict[str, object]) -> None:
    written = {**BACKUP, **more}
    backup = repaired(**more)
    assert json.loads(to_json(backup)) == written
    assert b"\n" not in to_json(backup)
    assert from_json(Backup, to_json(backup)) == backup


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        (BackupRef, b'{"id":"502"}', "expected int, got '502' at id"),
        (BackupRef, b"{", "not the JSON of a BackupRef: "),
        (BackupRef, '{"id":"\ud800"}', "not the JSON of a BackupRef: "),
        (BackupRef, b"[1]", "not the JSON of a BackupRef: "),
        (BackupRef, b"{}", "a required field is missing at id"),
        (Backup, b'{"id":1}', "a required field is missing at "),
    ],
)
def test_json_that_does_not_fit_is_a_value_error_naming_the_place(
    kind: type, text: bytes | str, words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        from_json(kind, text)


# --- The differential tests ----------------------------------------------------------------------


@frozen
class Literal:
    """A number that the JSON spells in a way of its own."""

    text: str


class Members(list[tuple[str, Any]]):
    """An object by its members, so that a key can come twice."""


ABSENT = object()

texts = st.one_of(
    st.sampled_from(
        ["", "x", 'a "quoted" one', '\\"', "\\", "a\nb", "\N{SNOWMAN} \N{SLEEPING FACE}"]
    ),
    st.text(max_size=5),
)
numbers = st.one_of(
    st.integers(1, 600),
    st.sampled_from([-1, 0, 2**31, 2**53 + 1, 2**63, 2**64, 10**25, -(2**70)]),
)
odd_numbers = st.sampled_from(["501.0", "5e2", "1e400", "-0", "-0.0", "501.5", "9" * 60]).map(
    Literal
)
utc_times = st.sampled_from(
    [
        "2025-01-16T03:00:00Z",
        "2025-01-16T03:00:00.5Z",
        "2024-02-29T23:59:59.999999Z",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z",
        "2025-01-16T03:00:00+00:00",
    ]
)
other_times = st.sampled_from(
    [
        "2025-01-16T03:00:00z",
        "2025-01-16 03:00:00Z",
        "2025-01-16T03:00:00.1234567Z",
        "2025-01-16T03:00:00",
        "2025-01-16T03:00:00.000001",
        "2025-01-16T03:00:00-00:00",
        "2025-01-16T03:00:00+0000",
        "2025-01-16T11:00:00+08:00",
        "2025-01-15T23:30:00.75-03:30",
    ]
)
bad_times = st.sampled_from(
    [
        "0001-01-01T00:00:00+05:00",
        "9999-12-31T23:59:59-05:00",
        "2025-01-16T24:00:00Z",
        "2025-01-16T03:00:60Z",
        "2025-02-30T03:00:00Z",
        "2025-01-16",
        "1737000000",
        "",
        "now",
    ]
)
junk = st.recursive(
    st.one_of(
        *[st.none(), st.booleans(), numbers, odd_numbers],
        *[texts, st.just("half \ud83d"), other_times, bad_times],
    ),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
stray_keys = st.one_of(
    st.sampled_from(["", "zone", "extra", "message", "ID", "id ", "results", "next", "\u0000"]),
    texts,
)


@st.composite
def objects(draw: st.DrawFn, members: dict[str, st.SearchStrategy[Any]], spoil: int) -> Members:
    """An object with these members; one in `spoil` is missing, wrong or twice, or a stray comes."""
    said = Members()
    for name, good in members.items():
        kind = draw(st.integers(0, spoil)) if spoil else 0
        if kind == 1:
            continue
        said.append((name, draw(junk if kind == 2 else good)))
        if kind == 3:
            said.append((name, draw(good | junk)))
    if spoil and draw(st.integers(0, spoil)) == 1:
        place = draw(st.integers(0, len(said)))
        said.insert(place, (draw(stray_keys), draw(junk)))
    return said if draw(st.integers(0, 4)) else Members(draw(st.permutations(said)))


def backups(spoil: int) -> st.SearchStrategy[Any]:
    times = st.one_of(*[utc_times] * 12, other_times)
    return objects(
        {
            "id": numbers,
            "server": objects({"id": st.integers(1, 600), "name": texts}, spoil),
            "backup_type": st.sampled_from(["manual", "automatic", "weekly", "MANUAL", ""]),
            "status": st.sampled_from(["completed", "in_progress", "failed", "FAILED"]) | texts,
            "size_mb": st.none() | st.integers(0, 10**6),
            "created_at": times,
            "expires_at": st.none() | times,
            "description": st.just("Automatic daily backup") | texts,
        },
        spoil,
    )


def pages(spoil: int) -> st.SearchStrategy[Any]:
    results = st.lists(backups(spoil), max_size=3)
    links = st.sampled_from([None, "", LINK, "?page=2", "?a=%22", '?a="']) | texts
    counts = st.none() | numbers
    document = objects(
        {"count": counts, "next": links, "previous": links, "results": results}, spoil
    )
    return st.one_of(document, document, document, results, junk)


@st.composite
def writings(draw: st.DrawFn, documents: st.SearchStrategy[Any]) -> bytes:
    """The JSON of a document in some style of white space and escapes."""
    document = draw(documents)
    blank = draw(st.sampled_from(["", "", " ", "\n  ", "\t\r\n"]))
    ascii_only = draw(st.booleans())
    escape_keys = draw(st.integers(0, 9)) == 0

    def text(value: str, escape_all: bool = False) -> str:
        if escape_all:
            units = value.encode("utf-16-be", "surrogatepass").hex()
            return '"' + "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4)) + '"'
        return json.dumps(value, ensure_ascii=ascii_only)

    def write(value: Any) -> str:
        if isinstance(value, dict):
            value = Members(value.items())
        if isinstance(value, Members):
            said = (
                f"{text(name, escape_keys)}{blank}:{blank}{write(part)}" for name, part in value
            )
            return "{" + blank + f"{blank},{blank}".join(said) + blank + "}"
        if isinstance(value, list):
            return "[" + blank + f"{blank},{blank}".join(map(write, value)) + blank + "]"
        if isinstance(value, str):
            return text(value, escape_all=draw(st.integers(0, 30)) == 0)
        return value.text if isinstance(value, Literal) else json.dumps(value)

    return (blank + write(document) + blank).encode("utf-8", "surrogatepass")


def outcome(read: Callable[[_wire.Response], Page], body: bytes) -> Page | InvalidResponseError:
    """What the reader makes of the bytes; anything but a page or the one refusal fails the test."""
    try:
        return read(reply(body))
    except InvalidResponseError as error:
        return error


def hold_alike(body: bytes) -> None:
    fast, slow = _wire._fast_page(body), outcome(_wire._plain_page, body)
    event(f"fast {'took' if fast else 'left'}, plain {'took' if isinstance(slow, Page) else 'not'}")
    if fast is not None:
        assert isinstance(slow, Page), f"the fast path takes what the plain one refuses: {slow}"
        assert fast == slow
        assert anatomy(fast) == anatomy(slow)
    read = outcome(_wire.read_page, body)
    if isinstance(slow, InvalidResponseError):
        assert str(read) == str(slow)
        assert len(str(slow).splitlines()) == 1
        assert slow.__context__ is None
        return
    assert isinstance(read, Page)
    assert anatomy(read) == anatomy(slow)
    for backup in read.items:
        assert backup.created_at.tzinfo is UTC
        assert type(backup.id) is type(backup.server.id) is int
        assert type(backup.status) is BackupStatus


@given(writings(pages(spoil=250)))
@settings(max_examples=1000)
def test_pages_with_a_fault_here_and_there_read_alike_on_both_paths(body: bytes) -> None:
    hold_alike(body)


@given(writings(pages(spoil=25)))
@settings(max_examples=300)
def test_pages_full_of_faults_read_alike_on_both_paths(body: bytes) -> None:
    hold_alike(body)


@given(
    st.sampled_from([LIST, b'{"results": [' + CREATE + b"]}", dump(page_of(BACKUP, next=LINK))]),
    st.lists(
        st.tuples(
            st.integers(0, 999),
            st.integers(0, 3),
            st.sampled_from(
                [b'"', b"\\", b"\xff", b"\xc3\xa9", b"0", b"null", b",", b"}", b'""', b"e"]
            )
            | st.binary(max_size=2),
        ),
        min_size=1,
        max_size=3,
    ),
)
@settings(max_examples=1000)
@example(LIST, [(60, 0, b'\\"')])
def test_a_page_with_bytes_changed_reads_alike_on_both_paths(
    body: bytes, changes: list[tuple[int, int, bytes]]
) -> None:
    for place, length, new in changes:
        at = place % len(body)
        body = body[:at] + new + body[at + length :]
    hold_alike(body)


@given(st.binary(max_size=30) | st.text(max_size=30).map(str.encode))
def test_any_bytes_are_a_page_or_an_invalid_response(body: bytes) -> None:
    hold_alike(body)


def as_the_list_has_it(said: Members) -> Any:
    """What `json` itself would make of the members: the last of each name."""
    return {
        name: as_the_list_has_it(part) if isinstance(part, Members) else part for name, part in said
    }


@given(backups(spoil=0))
def test_a_backup_is_read_as_it_was_written(said: Members) -> None:
    """Both paths could be wrong together: here the values are those that went in."""
    wanted = as_the_list_has_it(said)
    backup = _wire.read_page(reply(dump(page_of(wanted)))).items[0]
    assert (backup.id, backup.server.id, backup.size_mb) == (
        wanted["id"],
        wanted["server"]["id"],
        wanted["size_mb"],
    )
    assert (backup.server.name, backup.description) == (
        wanted["server"]["name"],
        wanted["description"],
    )
    assert (backup.status, backup.backup_type) == (wanted["status"], wanted["backup_type"])
    created = datetime.fromisoformat(wanted["created_at"].upper())
    created = created if created.tzinfo else created.replace(tzinfo=UTC)
    assert abs(backup.created_at - created) <= timedelta(microseconds=1)  # the 7th digit rounds
