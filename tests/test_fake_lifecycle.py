"""What time does to the backups that the fake server holds; all under virtual time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from helpers_fake import LIST, ask

from vpsbackups_async.testing import FakeVPS

START = datetime(2025, 1, 16, 15, 45, tzinfo=UTC)
pytestmark = pytest.mark.virtual_time


async def create(fake: FakeVPS, server_id: int = 1, status: int = 201) -> dict[str, Any]:
    answered = await ask(fake, "POST", LIST, json={"server_id": server_id})
    assert answered.status == status, answered.body
    found: dict[str, Any] = answered.json
    return found


async def state(fake: FakeVPS) -> list[tuple[str, int | None]]:
    answered = await ask(fake, "GET", LIST)
    return [(backup["status"], backup["size_mb"]) for backup in answered.json["results"]]


async def test_a_backup_completes_when_its_time_is_over() -> None:
    async with FakeVPS(servers=1, backup_seconds=60) as fake:
        made = await create(fake)
        assert made["status"] == "in_progress"
        await asyncio.sleep(59)
        assert await state(fake) == [("in_progress", None)]
        await asyncio.sleep(1)
        assert await state(fake) == [("completed", 4007)]
        listed = (await ask(fake, "GET", LIST)).json["results"][0]
        assert "message" not in listed
        assert listed["created_at"] == made["created_at"] == "2025-01-16T15:45:00Z"


async def test_a_backup_that_takes_no_time_is_completed_at_the_first_look() -> None:
    async with FakeVPS(servers=1, backup_seconds=0) as fake:
        assert (await create(fake))["status"] == "in_progress"
        assert await state(fake) == [("completed", 4007)]


async def test_each_backup_may_take_its_own_time() -> None:
    def seconds(backup: dict[str, Any]) -> float:
        return float(backup["server"]["id"])

    async with FakeVPS(servers=3, backup_seconds=seconds, order="id") as fake:
        for server_id in (1, 2, 3):
            await create(fake, server_id)
        await asyncio.sleep(2)
        statuses = [status for status, _ in await state(fake)]
        assert statuses == ["completed", "completed", "in_progress"]


async def test_backups_fail_on_the_servers_named_or_where_a_function_says_so() -> None:
    async with FakeVPS(servers=2, fails=iter([2]), order="id") as fake:
        await create(fake, 1)
        await create(fake, 2)
        await asyncio.sleep(5)
        assert await state(fake) == [("completed", 4007), ("failed", None)]
    async with FakeVPS(servers=1, failed_status="error") as fake:
        fake.fails = lambda backup: backup["id"] == 1
        await create(fake)
        await create(fake)
        await asyncio.sleep(5)
        assert await state(fake) == [("completed", 4014), ("error", None)]


async def test_a_new_backup_may_show_in_the_list_late() -> None:
    async with FakeVPS(servers=1, visible_after=10, backup_seconds=4) as fake:
        made = await create(fake)
        await create(fake)
        assert await state(fake) == []
        assert len(fake.backups) == 2
        assert (await ask(fake, "DELETE", f"{LIST}{made['id']}/")).status == 204
        await asyncio.sleep(9)
        assert await state(fake) == []
        await asyncio.sleep(1)
        assert await state(fake) == [("completed", 4014)]


async def test_a_function_says_how_late_each_backup_shows_in_the_list() -> None:
    late = {1: 0.0, 2: 10.0}
    async with FakeVPS(servers=1, visible_after=lambda backup: late[backup["id"]]) as fake:
        await create(fake)
        await create(fake)
        assert (await ask(fake, "GET", LIST)).ids == [1]
        await asyncio.sleep(10)
        assert (await ask(fake, "GET", LIST)).ids == [2, 1]


async def test_a_description_can_be_stored_in_another_form() -> None:
    async with FakeVPS(servers=1, stored_description=lambda text: text[:7]) as fake:
        fields = {"server_id": 1, "description": "Nightly of web"}
        made = await ask(fake, "POST", LIST, json=fields)
        listed = await ask(fake, "GET", LIST)
        assert made.json["description"] == "Nightly"
        assert listed.json["results"][0]["description"] == "Nightly"


async def test_new_ids_can_fall_or_come_from_blocks() -> None:
    async with FakeVPS(servers=5, new_ids="down") as fake:
        ids = [(await create(fake, server_id))["id"] for server_id in (1, 2, 3)]
        assert ids == [1_000_000, 999_999, 999_998]
        assert fake.add_backup(4)["id"] == 999_997
    async with FakeVPS(servers=3, new_ids="blocks") as fake:
        ids = [(await create(fake, 1 + n % 3))["id"] for n in range(30)]
        assert len(set(ids)) == 30
        assert ids != sorted(ids)
        assert len({number // 1_000_000 for number in ids}) == 4


async def test_the_date_header_can_be_ahead_of_creation_times() -> None:
    async with FakeVPS(servers=1, date_ahead=6) as fake:
        answered = await ask(fake, "POST", LIST, json={"server_id": 1})
        date = parsedate_to_datetime(answered.headers["Date"])
        created_at = datetime.fromisoformat(answered.json["created_at"])
        assert (date - created_at).total_seconds() == 6


async def test_the_clock_can_be_moved_without_waiting() -> None:
    async with FakeVPS(servers=1, backup_seconds=3600) as fake:
        await create(fake)
        fake.advance(3600)
        assert fake.now == START + timedelta(hours=1)
        assert await state(fake) == [("completed", 4007)]


async def test_a_server_takes_ten_manual_backups_and_not_one_more() -> None:
    async with FakeVPS(servers=2, backups=12) as fake:
        for _ in range(10):
            await create(fake)
        refused = await create(fake, status=400)
        assert "10 manual backups" in refused["detail"]
        await create(fake, 2)
        fake.quota_status = 409
        await create(fake, status=409)
        fake.quota = 11
        await create(fake)


async def test_one_at_a_time_refuses_a_second_create_until_the_first_is_over() -> None:
    async with FakeVPS(servers=2, one_at_a_time=True) as fake:
        await create(fake)
        assert "in progress" in (await create(fake, status=409))["detail"]
        await create(fake, 2)
        await asyncio.sleep(5)
        await create(fake)


async def test_an_automatic_backup_expires_and_a_manual_one_never_does() -> None:
    async with FakeVPS(servers=1, retention_days=7) as fake:
        made = fake.add_backup(1, backup_type="automatic")
        fake.add_backup(1)
        fake.add_backup(1, backup_type="automatic", created_at=START - timedelta(days=8))
        fake.add_backup(1, backup_type="automatic", created_at=START - timedelta(days=6))
        assert made["expires_at"] == "2025-01-23T15:45:00Z"
        assert [backup["id"] for backup in fake.backups] == [1, 2, 4]
        await asyncio.sleep(86_400)
        assert (await ask(fake, "GET", LIST)).ids == [2, 1]
        await asyncio.sleep(6 * 86_400)
        assert (await ask(fake, "GET", f"{LIST}?server_id=1")).ids == [2]
        assert (await ask(fake, "GET", f"{LIST}?backup_type=automatic")).ids == []


async def test_a_removed_backup_neither_shows_nor_expires_nor_ends() -> None:
    async with FakeVPS(servers=1, visible_after=1, backup_seconds=2) as fake:
        made = await create(fake)
        expiring = fake.add_backup(1, backup_type="automatic")
        fake.remove_backup(made["id"])
        fake.remove_backup(expiring["id"])
        fake.advance(100 * 86_400)
        assert await state(fake) == []
        with pytest.raises(KeyError):
            fake.remove_backup(made["id"])
        with pytest.raises(KeyError):
            fake.finish(made["id"])


async def test_a_test_can_end_a_backup_as_it_likes_and_that_stands() -> None:
    async with FakeVPS(servers=1, order="id") as fake:
        for status in ("completed", "failed", "verifying"):
            fake.finish((await create(fake))["id"], status)
        expected = [("completed", 4007), ("failed", None), ("verifying", None)]
        assert await state(fake) == expected
        await asyncio.sleep(10)
        assert await state(fake) == expected


async def test_any_backup_can_be_added_with_any_field() -> None:
    async with FakeVPS(servers=2) as fake:
        odd = fake.add_backup(
            2,
            id=77,
            status="odd",
            description=None,
            created_at="2025-01-01T10:00:00",
            checksum="abc",
            omit=["expires_at"],
        )
        assert odd == {
            "id": 77,
            "server": {"id": 2, "name": "server-0002"},
            "backup_type": "manual",
            "status": "odd",
            "size_mb": None,
            "created_at": "2025-01-01T10:00:00",
            "description": None,
            "checksum": "abc",
        }
        sizes = [fake.add_backup(1, size_mb=size)["size_mb"] for size in (None, 0, 12)]
        assert sizes == [None, 0, 12]
        fake.add_backup(1, backup_type="automatic", created_at="some day")
        fake.add_backup(1, created_at=START.replace(tzinfo=None).isoformat())
        assert (await ask(fake, "GET", LIST)).ids == [82, 81, 80, 79, 78, 77]
        with pytest.raises(ValueError, match="no server 9"):
            fake.add_backup(9)
        with pytest.raises(ValueError, match="77"):
            fake.add_backup(2, id=77)


async def test_a_naive_expiry_is_read_as_utc() -> None:
    async with FakeVPS(servers=1) as fake:
        fake.add_backup(1, expires_at="2025-01-16T15:45:10")
        await asyncio.sleep(9)
        assert len(fake.backups) == 1
        await asyncio.sleep(1)
        assert fake.backups == []


async def test_a_backup_added_in_progress_stays_so_unless_given_a_time() -> None:
    async with FakeVPS(servers=1, order="id") as fake:
        fake.add_backup(1, status="in_progress")
        fake.add_backup(1, status="in_progress", seconds=3)
        await asyncio.sleep(4)
        assert [status for status, _ in await state(fake)] == ["in_progress", "completed"]


async def test_seeded_backups_take_a_server_by_id_or_by_its_json() -> None:
    seeds: list[dict[str, Any]] = [
        {"server_id": 1},
        {"server": 2},
        {"server": {"id": 7, "name": "db"}},
    ]
    async with FakeVPS(servers=2, backups=seeds) as fake:
        servers = [backup["server"] for backup in fake.backups]
        assert servers[0] == {"id": 1, "name": "server-0001"}
        assert [server["id"] for server in servers] == [1, 2, 7]
        assert (await create(fake, 7))["server"] == {"id": 7, "name": "db"}


async def test_the_date_header_and_created_at_come_from_one_clock() -> None:
    async with FakeVPS(servers=1) as fake:
        for wait in (0.0, 0.6, 0.6, 100.0):
            await asyncio.sleep(wait)
            answered = await ask(fake, "POST", LIST, json={"server_id": 1})
            date = parsedate_to_datetime(answered.headers["Date"])
            assert answered.json["created_at"] == date.strftime("%Y-%m-%dT%H:%M:%SZ")
            assert date == fake.now.replace(microsecond=0)
        assert fake.now == START + timedelta(seconds=101.2)
        assert fake.requests[-1].at == fake.now.timestamp()


async def test_a_clock_of_ones_own_is_followed() -> None:
    moment = datetime(2030, 5, 6, tzinfo=UTC)
    async with FakeVPS(servers=1, clock=moment.timestamp) as fake:
        assert fake.now == moment
        assert (await create(fake))["created_at"] == "2030-05-06T00:00:00Z"
        fake.advance(5)
        assert await state(fake) == [("completed", 4007)]
        await asyncio.sleep(10)
    assert fake.now == moment + timedelta(seconds=5)


async def test_the_clock_stands_still_while_the_server_is_stopped() -> None:
    fake = FakeVPS(servers=1)
    assert fake.now == START
    await fake.start()
    await asyncio.sleep(10)
    await fake.stop()
    await asyncio.sleep(10)
    assert fake.now == START + timedelta(seconds=10)
    await fake.start()
    await asyncio.sleep(10)
    assert fake.now == START + timedelta(seconds=20)
    await fake.stop()
