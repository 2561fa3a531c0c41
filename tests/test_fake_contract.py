"""The fake server speaks the contract: the provider's examples, and openapi.json."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest
from helpers_fake import LIST, Answered, ask

from vpsbackups_async.testing import FakeVPS, RateLimit, ServerFault, openapi

EXAMPLE = json.loads("""
{"count": 3, "results": [
  {"id": 501, "server": {"id": 12345, "name": "web-server-01"}, "backup_type": "automatic",
   "status": "completed", "size_mb": 4523, "created_at": "2025-01-16T03:00:00Z",
   "expires_at": "2025-02-16T03:00:00Z", "description": "Automatic daily backup"},
  {"id": 499, "server": {"id": 12345, "name": "web-server-01"}, "backup_type": "manual",
   "status": "completed", "size_mb": 4456, "created_at": "2025-01-14T10:30:00Z",
   "expires_at": null, "description": "Pre-update backup"},
  {"id": 495, "server": {"id": 12345, "name": "web-server-01"}, "backup_type": "automatic",
   "status": "completed", "size_mb": 4389, "created_at": "2025-01-15T03:00:00Z",
   "expires_at": "2025-02-15T03:00:00Z", "description": "Automatic daily backup"}]}
""")

SERVERS = "/api/v1/servers/"
ME = "/api/v1/account/me/"


def check(method: str, path: str, answered: Answered) -> None:
    """Hold a reply against the document: a status it names, and the schema of that status."""
    document = openapi()
    item = next(
        item
        for template, item in document["paths"].items()
        if re.fullmatch(re.sub(r"\{\w+\}", r"\\d+", template), path.partition("?")[0])
    )
    replies = item[method.lower()]["responses"]
    status = str(answered.status)
    reply = replies.get(status) or replies[f"{status[0]}XX"]
    if "$ref" in reply:
        reply = document["components"]["responses"][reply["$ref"].rpartition("/")[2]]
    if "content" not in reply:
        assert not answered.body or status.startswith("2")
        return
    kind = answered.headers["Content-Type"].partition(";")[0]
    schema = {**reply["content"][kind]["schema"], "components": document["components"]}
    value = answered.json if kind == "application/json" else answered.body.decode()
    jsonschema.Draft202012Validator(schema).validate(value)


async def test_the_providers_example_list_comes_back_key_for_key() -> None:
    async with FakeVPS(servers=0, backups=EXAMPLE["results"], paging="none") as fake:
        answered = await ask(fake, "GET", f"{LIST}?server_id=12345")
    assert answered.json == EXAMPLE
    assert answered.headers["Content-Type"] == "application/json"


async def test_the_providers_example_create_comes_back_key_for_key() -> None:
    servers = {12345: "web-server-01"}
    async with FakeVPS(servers=servers, backups=EXAMPLE["results"]) as fake:
        fake.finish(501)
        body = {"server_id": 12345, "description": "Pre-deployment backup"}
        answered = await ask(fake, "POST", LIST, json=body)
    assert answered.status == 201
    assert answered.json == {
        "id": 502,
        "server": {"id": 12345, "name": "web-server-01"},
        "backup_type": "manual",
        "status": "in_progress",
        "size_mb": None,
        "created_at": "2025-01-16T15:45:00Z",
        "expires_at": None,
        "description": "Pre-deployment backup",
        "message": "Backup is being created. "
        "This may take several minutes depending on server size.",
    }


async def test_a_deleted_backup_is_gone_and_a_second_delete_finds_nothing() -> None:
    async with FakeVPS(servers=1, backups=2) as fake:
        first = await ask(fake, "DELETE", f"{LIST}1/")
        second = await ask(fake, "DELETE", f"{LIST}1/")
        assert [backup["id"] for backup in fake.backups] == [2]
    assert (first.status, first.body) == (204, b"")
    assert (second.status, second.json) == (404, {"detail": "Backup not found."})


async def test_a_restore_is_accepted_and_remembered() -> None:
    async with FakeVPS(servers=2, backups=1) as fake:
        path = "/api/v1/servers/2/restore/"
        answered = await ask(fake, "POST", path, json={"backup_id": 2})
        assert answered.status == 202
        assert "message" in answered.json
        assert fake.restores == [(2, 2)]
        for body, path_ in (
            ({"backup_id": 1}, path),
            ({"backup_id": 9}, path),
            ({"backup_id": 1}, "/api/v1/servers/9/restore/"),
        ):
            assert (await ask(fake, "POST", path_, json=body)).status == 404
        assert fake.restores == [(2, 2)]


@pytest.mark.parametrize(
    ("reply", "status", "body"),
    [
        ((200, {"ok": True}), 200, b'{"ok":true}'),
        ((204, None), 204, b""),
        ((202, b"started"), 202, b"started"),
    ],
)
async def test_the_reply_of_a_restore_is_what_the_knob_says(
    reply: tuple[int, Any], status: int, body: bytes
) -> None:
    async with FakeVPS(servers=1, backups=1, restore_reply=reply) as fake:
        answered = await ask(fake, "POST", "/api/v1/servers/1/restore/", json={"backup_id": 1})
    assert (answered.status, answered.body) == (status, body)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{}", 400, {"server_id": ["This field is required."]}),
        (b"", 400, {"server_id": ["This field is required."]}),
        (b'{"server_id": null}', 400, {"server_id": ["This field may not be null."]}),
        (b'{"server_id": "x"}', 400, {"server_id": ["A valid integer is required."]}),
        (b'{"server_id": true}', 400, {"server_id": ["A valid integer is required."]}),
        (b'{"server_id": 1.5}', 400, {"server_id": ["A valid integer is required."]}),
        (b'{"server_id": 1, "description": null}', 400, None),
        (b'{"server_id": 1, "description": []}', 400, {"description": ["Not a valid string."]}),
        (b"[1]", 400, None),
        (b"null", 400, None),
        (b"{not json", 400, {"detail": "JSON parse error - the body is not valid JSON."}),
        (b'{"server_id": 9}', 404, {"detail": "Server not found."}),
        (b'{"server_id": "1"}', 201, None),
        (b'{"server_id": 1.0, "description": 7}', 201, {"description": "7"}),
    ],
)
async def test_a_create_is_validated_as_django_rest_framework_does(
    body: bytes, status: int, words: Any
) -> None:
    async with FakeVPS(servers=1) as fake:
        headers = {"Content-Type": "application/json; charset=utf-8"}
        answered = await ask(fake, "POST", LIST, data=body, headers=headers)
        assert answered.status == status
        if words is not None:
            assert (
                (words.items() <= answered.json.items())
                if status == 201
                else answered.json == words
            )
        assert len(fake.backups) == (status == 201)
        check("POST", LIST, answered)


async def test_a_body_that_is_not_sent_as_json_is_refused() -> None:
    async with FakeVPS() as fake:
        answered = await ask(fake, "POST", LIST, data=b'{"server_id": 1}')
    assert answered.status == 415
    check("POST", LIST, answered)


async def test_a_path_without_its_slash_is_redirected_and_nothing_is_done() -> None:
    async with FakeVPS(servers=1) as fake:
        created = await ask(fake, "POST", "/api/v1/backups?a=1", json={"server_id": 1})
        other = await ask(fake, "GET", "/api/v1/nothing")
        assert fake.backups == []
    assert created.status == 301
    assert created.headers["Location"] == "/api/v1/backups/?a=1"
    assert other.status == 404


@pytest.mark.parametrize("path", ["/", "/api/v1/", "/api/v1/backups/1/x/", "/api/v2/backups/"])
async def test_an_unknown_path_is_an_html_404(path: str) -> None:
    async with FakeVPS() as fake:
        answered = await ask(fake, "GET", path)
    assert answered.status == 404
    assert answered.headers["Content-Type"].startswith("text/html")


@pytest.mark.parametrize("text", ["x", "1.5", "-1", "٢", "9" * 30])
async def test_an_id_that_is_no_integer_is_not_found_in_json(text: str) -> None:
    async with FakeVPS() as fake:
        deleted = await ask(fake, "DELETE", f"{LIST}{text}/")
        restored = await ask(
            fake, "POST", f"/api/v1/servers/{text}/restore/", json={"backup_id": 1}
        )
    for answered in (deleted, restored):
        assert (answered.status, answered.json) == (404, {"detail": "Not found."})
    check("DELETE", f"{LIST}1/", deleted)


async def test_there_is_no_endpoint_for_one_backup() -> None:
    async with FakeVPS(servers=1, backups=1) as fake:
        answered = await ask(fake, "GET", f"{LIST}1/")
    assert answered.status == 405
    assert answered.headers["Allow"] == "DELETE, OPTIONS"


async def test_everything_stands_behind_the_prefix() -> None:
    async with FakeVPS(servers=1, backups=3, prefix="/vps/", page_size=2) as fake:
        assert fake.url.endswith("/vps")
        first = await ask(fake, "GET", LIST)
        assert first.json["next"] == f"{fake.url}{LIST}?page=2"
        assert (await ask(fake, "GET", first.json["next"])).ids == [1]
        outside = fake.url.removesuffix("/vps") + LIST
        assert (await ask(fake, "GET", outside)).status == 404


async def test_the_token_is_checked_and_can_be_revoked_or_forbidden() -> None:
    async with FakeVPS() as fake:
        assert fake.token.startswith("vps_")
        for header in ("", "Bearer", f"Token {fake.token}", "Bearer vps_other"):
            answered = await ask(fake, "GET", LIST, headers={"Authorization": header})
            assert (answered.status, answered.json) == (401, {"detail": "Invalid token."})
            check("GET", LIST, answered)
        fake.forbid()
        assert (await ask(fake, "GET", LIST)).status == 403
        fake.revoke()
        assert (await ask(fake, "GET", LIST)).status == 401
        fake.allow()
        assert (await ask(fake, "GET", LIST)).status == 200
    async with FakeVPS(token="vps_mine") as fake:
        assert fake.token == "vps_mine"
        assert (await ask(fake, "GET", LIST)).status == 200


@pytest.mark.parametrize("paging", ["page", "limit", "cursor", "none"])
async def test_every_reply_fits_the_document(paging: Any) -> None:
    restore = "/api/v1/servers/1/restore/"
    calls: list[tuple[str, str, Any, int]] = [
        ("GET", LIST, None, 200),
        ("GET", f"{LIST}?server_id=x", None, 400),
        ("GET", f"{LIST}?backup_type=x", None, 400),
        ("POST", LIST, {"server_id": 1}, 201),
        ("POST", LIST, {"server_id": 1}, 409),
        ("POST", LIST, {"server_id": 2}, 400),
        ("POST", LIST, {"server_id": 9}, 404),
        ("POST", LIST, {}, 400),
        ("DELETE", f"{LIST}1/", None, 204),
        ("DELETE", f"{LIST}1/", None, 404),
        ("POST", restore, {"backup_id": 3}, 202),
        ("POST", restore, {"backup_id": 1}, 404),
        ("POST", restore, {"backup_id": "x"}, 400),
        ("GET", SERVERS, None, 200),
        ("GET", f"{SERVERS}?status=stopped&location=us-west", None, 200),
        ("GET", f"{SERVERS}?status=x", None, 400),
        ("GET", ME, None, 200),
        ("GET", LIST, None, 429),
        ("GET", LIST, None, 503),
        ("GET", LIST, None, 502),
    ]
    faults = [
        RateLimit(after=7, method="GET", times=1),
        ServerFault(after=7, method="GET", times=1),
        ServerFault(502, html=True, after=7, method="GET", times=1),
    ]
    options: dict[str, Any] = {"paging": paging, "quota": 1, "one_at_a_time": True}
    async with FakeVPS(servers=2, backups=30, faults=faults, **options) as fake:
        fake.add_backup(2)
        for method, path, body, status in calls:
            answered = await ask(fake, method, path, json=body)
            assert answered.status == status, (method, path, body)
            check(method, path, answered)


def test_the_document_holds_the_whole_contract_and_its_references_resolve() -> None:
    document = openapi()
    assert document["openapi"].startswith("3.1")
    assert set(document["paths"]) == {
        "/api/v1/backups/",
        "/api/v1/backups/{backup_id}/",
        SERVERS,
        "/api/v1/servers/{server_id}/restore/",
        ME,
    }
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    assert {"Backup", "BackupCreated", "BackupPage", "Error"} <= set(
        document["components"]["schemas"]
    )
    for reference in re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document)):
        value = document
        for step in reference.split("/"):
            value = value[step]
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_the_document_is_the_callers_to_change() -> None:
    openapi()["paths"].clear()
    assert openapi()["paths"]
