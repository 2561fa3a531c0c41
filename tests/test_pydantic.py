"""The values in pydantic's models and as response models of FastAPI."""

import json
from datetime import UTC, date, datetime
from typing import Any

import pytest
from attrs import evolve
from fastapi import FastAPI
from helpers_web import answer, serving
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from vpsbackups_async import (
    Account,
    Backup,
    BackupRef,
    BackupStatus,
    Server,
    ServerRef,
    from_json,
    to_json,
)

PLAIN: dict[str, Any] = {
    "id": 501,
    "server": {"id": 12345, "name": "web"},
    "backup_type": "manual",
    "status": "completed",
    "size_mb": 4096,
    "created_at": "2025-01-16T15:45:00Z",
    "expires_at": None,
    "description": "Nightly",
}
OBJECTS = {
    "plain": PLAIN,
    "with a message": PLAIN | {"message": "Backup has been started."},
    "with fields that are not known": PLAIN | {"region": "eu", "tags": [1, {"a": None}]},
    "of a server with such fields": PLAIN | {"server": {"id": 1, "name": "", "plan": "big"}},
    "with a status that is not known": PLAIN | {"status": "queued"},
    "that expires": PLAIN | {"backup_type": "automatic", "expires_at": "2025-02-01T00:00:00Z"},
}


class Report(BaseModel):
    """A model of an application."""

    backup: Backup
    others: list[Backup] = []
    ref: BackupRef | None = None
    status: BackupStatus = BackupStatus.COMPLETED


@pytest.fixture(params=OBJECTS.values(), ids=list(OBJECTS))
def backup(request: pytest.FixtureRequest) -> Backup:
    return from_json(Backup, json.dumps(request.param))


def test_a_model_holds_the_very_backup_that_it_is_given(backup: Backup) -> None:
    assert Report(backup=backup).backup is backup


def test_a_model_writes_a_backup_as_to_json_does(backup: Backup) -> None:
    written = json.loads(Report(backup=backup).model_dump_json())
    assert written["backup"] == json.loads(to_json(backup))


def test_a_model_reads_the_backup_that_it_wrote(backup: Backup) -> None:
    report = Report(backup=backup, others=[backup], ref=backup.ref, status=backup.status)
    for again in (
        Report.model_validate_json(report.model_dump_json()),
        Report.model_validate(report.model_dump()),
    ):
        assert again == report
        assert type(again.backup) is type(backup)
        assert to_json(again.backup) == to_json(backup)


def test_a_model_reads_the_backup_that_it_wrote_without_nulls(backup: Backup) -> None:
    running = evolve(backup, size_mb=None, expires_at=None)
    written = Report(backup=running).model_dump_json(exclude_none=True)
    assert "size_mb" not in written
    again = Report.model_validate_json(written).backup
    assert (again.ref, again.size_mb, again.expires_at) == (backup.ref, None, None)


def test_a_value_is_not_written_as_one_of_another_class() -> None:
    server = Server(1, "web", hostname="web.example.com")
    adapter: TypeAdapter[ServerRef | Server] = TypeAdapter(ServerRef | Server)
    assert json.loads(adapter.dump_json(server))["hostname"] == "web.example.com"
    with pytest.raises(PydanticSerializationError, match="expected a ServerRef, not 'web'"):
        TypeAdapter(ServerRef).dump_json("web")  # type: ignore[arg-type]  # what is tested


@pytest.mark.parametrize("time", ["2025-01-16T15:45:00", "2025-01-16T17:45:00+02:00"])
def test_the_times_of_a_backup_are_in_utc(time: str) -> None:
    backup = TypeAdapter(Backup).validate_python(PLAIN | {"created_at": time})
    assert backup.created_at == datetime(2025, 1, 16, 15, 45, tzinfo=UTC)
    assert backup.created_at.tzinfo is UTC


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"id": "x"}, "id"),
        ({"status": 5}, "status"),
        ({"server": {"id": 1}}, "name"),
        ({"created_at": "noon"}, "created_at"),
    ],
)
def test_what_is_no_backup_is_refused_with_its_place(fields: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Report.model_validate_json(json.dumps({"backup": PLAIN | fields}))
    assert [error["loc"][-1] for error in caught.value.errors()] == [place]


def test_the_places_of_what_is_refused_name_fields_alone() -> None:
    given = {"backup": PLAIN | {"server": {"id": "x", "name": ""}}, "others": [PLAIN | {"id": []}]}
    for refused in (
        lambda: Report.model_validate(given),
        lambda: Report.model_validate_json(json.dumps(given)),
    ):
        with pytest.raises(ValidationError) as caught:
            refused()
        places = [error["loc"] for error in caught.value.errors()]
        assert places == [("backup", "server", "id"), ("others", 0, "id")]


def test_a_strict_reading_takes_what_was_written_and_no_other_types(backup: Backup) -> None:
    adapter = TypeAdapter(Backup)
    assert adapter.validate_json(adapter.dump_json(backup), strict=True) == backup
    assert adapter.validate_python(adapter.dump_python(backup), strict=True) == backup
    with pytest.raises(ValidationError):
        adapter.validate_json(json.dumps(PLAIN | {"id": "501"}), strict=True)


def test_a_ref_needs_no_server_and_takes_no_other_fields() -> None:
    adapter = TypeAdapter(BackupRef)
    assert adapter.validate_python({"id": 5}) == BackupRef(5)
    assert adapter.validate_json('{"id":5,"server_id":7,"more":1}') == BackupRef(5, 7)
    assert adapter.dump_json(BackupRef(5)) == to_json(BackupRef(5))


def test_a_server_keeps_fields_that_are_not_known() -> None:
    server = TypeAdapter(ServerRef).validate_python({"id": 1, "name": "web", "plan": "big"})
    assert (server.id, server.name, server.extra) == (1, "web", {"plan": "big"})


@pytest.mark.parametrize(
    "value",
    [
        Server(
            1,
            "web",
            status="active",
            created_at=datetime(2025, 1, 16, tzinfo=UTC),
            extra={"plan": {"id": 2}},
        ),
        Account(
            "me@example.com", created_at=date(2025, 1, 16), permissions=("read",), extra={"plan": 2}
        ),
    ],
    ids=["a server", "an account"],
)
def test_a_model_reads_what_it_wrote(value: Any) -> None:
    adapter = TypeAdapter(type(value))
    assert adapter.validate_json(adapter.dump_json(value)) == value
    assert adapter.validate_python(value) is value


ODD_SERVERS: dict[str, dict[str, Any]] = {
    "a date that cannot be read": {"id": 1, "name": "web", "created_at": "yesterday"},
    "values of other types": {"id": 1, "name": "web", "hostname": 5, "status": ["on"]},
    "a number for a date": {"id": 1, "name": "web", "created_at": 1737042300},
    "a date that can be read": {"id": 1, "name": "web", "created_at": "2025-01-16T15:45:00Z"},
    "nulls": {"id": 1, "name": "web", "location": None, "updated_at": None},
    "a date and unknown fields": {"id": 1, "name": "web", "updated_at": {"s": 1}, "plan": 2},
}


@pytest.mark.parametrize("given", ODD_SERVERS.values(), ids=list(ODD_SERVERS))
def test_a_server_whose_fields_do_not_fit_is_read_as_the_api_s_answer_is(
    given: dict[str, Any],
) -> None:
    server, adapter = from_json(Server, json.dumps(given)), TypeAdapter(Server)
    assert adapter.validate_json(json.dumps(given)) == server
    assert adapter.validate_python(given) == server
    assert adapter.validate_json(adapter.dump_json(server)) == server
    assert adapter.validate_python(adapter.dump_python(server)) == server
    assert adapter.validate_python(adapter.dump_python(server, mode="json")) == server
    assert adapter.validate_json(adapter.dump_json(server), strict=True) == server


def test_an_account_whose_fields_do_not_fit_is_read_again() -> None:
    account = Account("me@example.com", extra={"created_at": "long ago", "permissions": "all"})
    adapter = TypeAdapter(Account)
    assert adapter.validate_json(adapter.dump_json(account)) == account
    assert adapter.validate_python(adapter.dump_python(account)) == account


@pytest.mark.parametrize("given", [{"id": "x", "name": ""}, {"id": 1}, {"name": "web"}])
def test_a_server_needs_its_id_and_name(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Server).validate_json(json.dumps(given))


@pytest.mark.parametrize("mode", ["validation", "serialization"])
def test_the_schema_of_a_server_names_the_types_of_its_fields(mode: Any) -> None:
    schema = TypeAdapter(Server).json_schema(mode=mode)
    assert schema["required"] == ["id", "name"]
    assert schema["properties"]["status"]["type"] == "string"
    assert schema["properties"]["created_at"]["anyOf"] == [
        {"format": "date-time", "type": "string"},
        {"type": "null"},
    ]


@pytest.fixture
def application(backup: Backup) -> FastAPI:
    app = FastAPI()

    @app.get("/backups")
    async def several() -> list[Backup]:
        return [backup]

    @app.get("/ref", response_model=BackupRef)
    async def ref() -> Any:
        return backup.ref

    @app.post("/report")
    async def report() -> Report:
        return Report(backup=backup)

    return app


async def test_fastapi_answers_with_the_values(application: FastAPI, backup: Backup) -> None:
    async with serving("fastapi", {"app": application}) as site:
        status, body = await answer(site.port, "/backups")
        assert (status, json.loads(body)) == (200, [json.loads(to_json(backup))])
        assert await answer(site.port, "/ref") == (200, to_json(backup.ref))
        status, body = await answer(site.port, "/report", "POST")
        assert json.loads(body)["backup"] == json.loads(to_json(backup))


async def test_the_openapi_of_an_application_describes_the_values(application: FastAPI) -> None:
    async with serving("fastapi", {"app": application}) as site:
        _, body = await answer(site.port, "/openapi.json")
    schemas = json.loads(body)["components"]["schemas"]
    assert {"Backup", "BackupRef", "ServerRef"} <= set(schemas)
    backup = schemas["Backup"]
    assert backup["required"] == list(PLAIN)
    assert backup["properties"]["server"] == {"$ref": "#/components/schemas/ServerRef"}
    assert backup["properties"]["created_at"]["format"] == "date-time"
    assert backup["properties"]["status"]["type"] == "string"
    assert "completed" in backup["properties"]["status"]["examples"]
    assert schemas["BackupRef"]["required"] == ["id"]
