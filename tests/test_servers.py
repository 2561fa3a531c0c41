"""`client.servers()` and `client.account()`: streams of servers, and whose token this is."""

import ast
import json
import logging
import pickle
import re
import traceback
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

import vpsbackups_async
from vpsbackups_async import (
    Account,
    AuthenticationError,
    BackupsClient,
    InvalidResponseError,
    NotFoundError,
    PermissionDeniedError,
    Server,
    ServerStream,
    from_json,
    to_json,
)
from vpsbackups_async.testing import FakeVPS, Reply

SERVERS = "/api/v1/servers/"
ME = "/api/v1/account/me/"
PERMISSION = "You do not have permission"
NAMES = "Name the servers by their ids"


def reply(*servers: object, **more: object) -> Reply:
    body = {"count": len(servers), "results": servers, **more}
    return Reply(200, json.dumps(body).encode(), path=SERVERS)


# --- The stream ----------------------------------------------------------------------------------


async def test_servers_are_frozen_values_with_what_the_api_gives(
    fake: FakeVPS, client: BackupsClient
) -> None:
    server = await client.servers().first()
    assert server == Server(
        3,
        "server-0003",
        "server-0003.example.com",
        "active",
        "10.0.0.3",
        "us-west",
        datetime(2024, 12, 17, 15, 45, tzinfo=UTC),
        datetime(2024, 12, 17, 15, 45, tzinfo=UTC),
        {
            "plan": {"id": 2, "name": "Standard", "vcpus": 2, "memory": 4096, "storage": 80},
            "os": {"id": 7, "name": "Debian 12"},
        },
    )
    with pytest.raises(AttributeError):
        server.name = "other"  # type: ignore[misc,union-attr]
    assert fake.requests[0].target == SERVERS


@pytest.mark.fake_vps(servers=45, page_size=10)
async def test_a_stream_of_servers_reads_as_a_list_of_backups_does(
    fake: FakeVPS, client: BackupsClient
) -> None:
    stream = client.servers(prefetch=2)
    assert isinstance(stream, ServerStream)
    everyone = list(range(45, 0, -1))
    assert [server.id async for server in stream] == everyone
    assert [len(page.items) async for page in stream.pages()] == [10] * 4 + [5]
    assert [server.id for server in await stream.collect(limit=3)] == [45, 44, 43]
    assert await stream.count() == 45
    sweep = await stream.snapshot()
    assert (sweep.complete, [server.id for server in sweep.items]) == (True, everyone)
    before = fake.count()
    assert len(await client.servers(page_size=100).collect()) == 45
    assert fake.count() == before + 1


@pytest.mark.parametrize("paging", ["page", "limit", "cursor", "none"])
async def test_servers_are_read_however_the_list_is_paged(paging: Any) -> None:
    async with (
        FakeVPS(servers=7, page_size=3, paging=paging) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        assert [server.id async for server in client.servers()] == [7, 6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ({"status": "active"}, [4, 3]),
        ({"status": "stopped"}, [1]),
        ({"location": "eu & co"}, [3, 2]),
        ({"status": "suspended", "location": "eu & co"}, [2]),
        ({"status": "being moved"}, []),
    ],
)
@pytest.mark.parametrize("ignored", [(), ("status", "location")], ids=["heeded", "ignored"])
@pytest.mark.fake_vps(
    servers=4,
    page_size=2,
    server_statuses={1: "stopped", 2: "suspended", 9: "being moved"},
    server_locations={2: "eu & co", 3: "eu & co"},
)
async def test_servers_are_filtered_by_status_and_location_by_the_server_or_here(
    fake: FakeVPS,
    client: BackupsClient,
    filters: dict[str, str],
    found: list[int],
    ignored: tuple[str, ...],
) -> None:
    fake.ignores_filters = ignored
    assert [server.id async for server in client.servers(**filters)] == found
    assert fake.requests[0].query == filters


async def test_a_server_without_the_fact_that_is_filtered_by_is_not_taken_for_another(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.inject(reply({"id": 1, "name": "a"}, {"id": 2, "name": "b", "status": "stopped"}))
    assert [server.id async for server in client.servers(status="active")] == [1]


@pytest.mark.parametrize(
    "arguments",
    [{"status": ""}, {"location": ""}, {"status": 1}, {"page_size": 0}, {"prefetch": -1}],
)
async def test_arguments_out_of_range_are_refused(
    client: BackupsClient, arguments: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        client.servers(**arguments)


async def test_a_page_size_that_the_list_of_servers_refuses_is_still_asked_of_that_of_backups(
    fake: FakeVPS, client: BackupsClient
) -> None:
    await client.list(page_size=50).collect()
    fake.inject(Reply(400, b'{"page_size": ["Unknown."]}', path=SERVERS, times=1))
    assert len(await client.servers(page_size=50).collect()) == 3
    await client.servers(page_size=50).collect()
    await client.list(page_size=50).collect()
    assert [seen.query for seen in fake.requests] == [
        {"page_size": "50"},
        {"page_size": "50"},
        {},
        {},
        {"page_size": "50"},
    ]


async def test_a_link_from_the_list_of_servers_to_another_list_is_not_followed(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.inject(reply({"id": 1, "name": "a"}, next=f"{fake.url}/api/v1/backups/?page=2"))
    with pytest.raises(Exception, match="leads out of the list"):
        await client.servers().collect()
    assert fake.count() == 1


# --- What a server may look like -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "server"),
    [
        ({}, Server(7, "web")),
        ({"status": "rescue mode"}, Server(7, "web", status="rescue mode")),
        ({"status": None, "created_at": None, "location": None}, Server(7, "web")),
        ({"tags": None, "extra": 1}, Server(7, "web", extra={"tags": None, "extra": 1})),
        (
            {"created_at": "2025-01-16T05:00:00+02:00", "updated_at": "yesterday"},
            Server(
                7,
                "web",
                created_at=datetime(2025, 1, 16, 3, tzinfo=UTC),
                extra={"updated_at": "yesterday"},
            ),
        ),
        (
            {"location": {"id": 3}, "status": 1},
            Server(7, "web", extra={"location": {"id": 3}, "status": 1}),
        ),
    ],
)
async def test_what_fits_is_taken_and_the_rest_is_kept(
    fake: FakeVPS, client: BackupsClient, given: dict[str, Any], server: Server
) -> None:
    fake.inject(reply({"id": 7, "name": "web", **given}))
    assert await client.servers().first() == server


@pytest.mark.parametrize(
    ("server", "place"),
    [
        ({"name": "web"}, r"results\[1\]"),
        ({"id": 7}, r"results\[1\]"),
        ({"id": "7", "name": "web"}, r"results\[1\].id"),
        ({"id": True, "name": "web"}, r"results\[1\].id"),
        ({"id": 7, "name": None}, r"results\[1\].name"),
        ([], r"results\[1\]"),
    ],
)
async def test_a_server_without_id_or_name_is_an_error_with_its_place(
    fake: FakeVPS, client: BackupsClient, server: Any, place: str
) -> None:
    fake.inject(reply({"id": 1, "name": "a"}, server))
    with pytest.raises(InvalidResponseError, match=place):
        await client.servers().collect()


async def test_a_bare_array_is_the_only_page(fake: FakeVPS, client: BackupsClient) -> None:
    fake.inject(Reply(200, b'[{"id": 1, "name": "a"}]', path=SERVERS))
    assert await client.servers().collect() == [Server(1, "a")]


async def test_a_server_is_written_as_the_api_gives_it_and_read_back(
    fake: FakeVPS, client: BackupsClient
) -> None:
    given = fake.add_server(9, "nine", hostname=..., status="rebuilding", zone={"a": [None]})
    server = await client.servers().first()
    assert server is not None
    assert json.loads(to_json(server)) == given
    assert from_json(Server, to_json(server)) == server
    assert pickle.loads(pickle.dumps(server)) == server
    assert len({server, server}) == 1


# --- Where there is no such call -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("calls", "kind"), [("forbidden", PermissionDeniedError), ("missing", NotFoundError)]
)
async def test_where_the_list_is_refused_the_error_says_to_name_servers(
    fake: FakeVPS, client: BackupsClient, calls: Any, kind: type[Exception]
) -> None:
    fake.account_calls = calls
    with pytest.raises(kind, match=NAMES) as caught:
        await client.servers().first()
    assert NAMES in str(pickle.loads(pickle.dumps(caught.value)))
    assert await client.list(server_id=1).count() == 5  # nothing else depends on it


@pytest.mark.parametrize(
    ("calls", "kind"), [("forbidden", PermissionDeniedError), ("missing", NotFoundError)]
)
async def test_where_the_account_is_refused_the_error_does_not_speak_of_backups(
    fake: FakeVPS, client: BackupsClient, calls: Any, kind: type[Exception]
) -> None:
    fake.account_calls = calls
    with pytest.raises(kind, match="nothing else depends on it") as caught:
        await client.account()
    assert "backup" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


async def test_a_refused_list_of_backups_does_not_speak_of_servers(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.forbid()
    with pytest.raises(PermissionDeniedError) as caught:
        await client.list().first()
    assert NAMES not in str(caught.value)


# --- The account ---------------------------------------------------------------------------------


async def test_the_account_is_whose_token_this_is_and_what_that_may_do(
    fake: FakeVPS, client: BackupsClient
) -> None:
    account = await client.account()
    assert account == Account(
        "ada@example.com",
        "Ada",
        "Lovelace",
        "Example Ltd",
        date(2024, 1, 15),
        "nightly",
        ("servers:read", "backups:read", "backups:write"),
        {"token": {"created_at": "2024-02-01T09:30:00Z"}},
    )
    assert (fake.requests[0].method, fake.requests[0].target) == ("GET", ME)


@pytest.mark.parametrize(
    ("given", "account"),
    [
        ({"account": None, "token": None}, Account()),
        ({"account": {"email": None, "vat": 7}}, Account(extra={"vat": 7})),
        (
            {"account": {"created_at": "2024-01-15T09:00:00Z"}},
            Account(created_at=date(2024, 1, 15)),
        ),
        ({"account": {"created_at": 5}}, Account(extra={"created_at": 5})),
        ({"token": {"permissions": "all"}}, Account(extra={"permissions": "all"})),
    ],
)
async def test_an_account_takes_what_is_there(
    fake: FakeVPS, client: BackupsClient, given: dict[str, Any], account: Account
) -> None:
    fake.account_reply = given
    assert await client.account() == account


@pytest.mark.parametrize("given", [{}, {"detail": "no"}, {"account": [1]}, [1]])
async def test_what_is_no_account_is_refused(
    fake: FakeVPS, client: BackupsClient, given: Any
) -> None:
    fake.account_reply = given
    with pytest.raises(InvalidResponseError, match="expected an object"):
        await client.account()


@pytest.mark.parametrize("escaped", [False, True])
async def test_the_token_is_masked_wherever_the_account_shows_it(
    fake: FakeVPS, client: BackupsClient, caplog: pytest.LogCaptureFixture, escaped: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    token = fake.token
    given: Any = {"account": {"note": f"is {token}"}, "token": {"name": token, "key": token[4:]}}
    text = json.dumps(given)
    if escaped:
        text = text.replace("vps_", "vps\\u005f")
    fake.inject(Reply(200, text.encode(), path=ME))
    account = await client.account()
    for part in (token, token[4:]):
        assert part not in repr(account) + caplog.text
    assert account.token_name
    assert account.extra["note"].startswith("is ")


async def test_an_account_that_is_no_json_shows_the_token_in_no_traceback(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.inject(Reply(200, f'{{"token": "{fake.token}"'.encode(), path=ME))
    with pytest.raises(InvalidResponseError) as caught:
        await client.account()
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    library = [frame for frame in shown.stack if "vpsbackups_async/_" in frame.filename]
    assert library
    assert all(fake.token not in str(frame.locals) for frame in library)


async def test_a_refused_token_is_an_authentication_error(
    fake: FakeVPS, client: BackupsClient
) -> None:
    fake.revoke()
    with pytest.raises(AuthenticationError):
        await client.account()
    with pytest.raises(AuthenticationError):
        await client.servers().first()


# --- What it takes -------------------------------------------------------------------------------

PACKAGE = Path(vpsbackups_async.__file__).parent
DEFINITIONS = {
    "models.py": "Server",
    "_wire.py": "SERVERS",
    "_lists/lists.py": "servers_query",
    "_lists/stream.py": "ServerStream",
    "client.py": "servers",
}
OF_FLEETS = ("fleet.py", "_lists/whole.py", "_lists/sources.py", "audit/", "cli/", "testing/")
MENTION = re.compile(r"(?<!\")\b(Server|SERVERS|ServerStream|servers_query)\b")


def lines_for_servers(path: Path, name: str) -> set[int]:
    """The numbers of the lines of a module that are there for `client.servers()` alone."""
    text = path.read_text(encoding="utf-8")
    found = {at for at, line in enumerate(text.splitlines(), 1) if MENTION.search(line)}
    for node in ast.walk(ast.parse(text)):
        target = getattr(node, "target", None)
        names = {getattr(node, "name", ""), getattr(target, "id", "")}
        if isinstance(node, ast.stmt) and DEFINITIONS.get(name) in names:
            found.update(range(node.lineno, (node.end_lineno or 0) + 1))
    return found


def test_the_list_of_servers_takes_few_lines_and_none_of_the_transport() -> None:
    names = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
    counts = {
        name: len(lines_for_servers(path, name))
        for name, path in names.items()
        if not name.startswith(OF_FLEETS)
    }
    assert all(counts[name] > 5 for name in DEFINITIONS)
    assert sum(counts.values()) <= 120
    assert not any(count for name, count in counts.items() if name.startswith("_transport/"))
