"""The faults of the fake server, each as a client sees it."""

from __future__ import annotations

import asyncio
import gzip
import json
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import pytest
from helpers_fake import LIST, ask

from vpsbackups_async.testing import (
    Drop,
    FakeVPS,
    Fault,
    Garbage,
    GzipBomb,
    HostileNext,
    Latency,
    NotJSON,
    Oversized,
    RateLimit,
    Redirect,
    Reply,
    SeenRequest,
    ServerFault,
    Truncate,
)

POST = ("POST", LIST)


async def statuses(fake: FakeVPS, times: int, method: str = "GET", path: str = LIST) -> list[int]:
    return [(await ask(fake, method, path)).status for _ in range(times)]


async def post(fake: FakeVPS) -> Any:
    return await ask(fake, "POST", LIST, json={"server_id": 1})


async def post_and_wait(fake: FakeVPS) -> None:
    assert (await post(fake)).status == 502
    await asyncio.sleep(1)


@pytest.mark.parametrize(
    ("fault", "value"),
    [
        (RateLimit(), "1"),
        (RateLimit(0.5), "0.5"),
        (RateLimit(9999999999), "9999999999"),
        (RateLimit(form="2814, 2"), "2814, 2"),
        (RateLimit(None), None),
    ],
)
async def test_a_rate_limit_says_when_to_come_back_in_any_form(
    fault: RateLimit, value: str | None
) -> None:
    async with FakeVPS(servers=1, faults=[fault]) as fake:
        answered = await post(fake)
        assert fake.backups == []
    assert answered.status == 429
    assert answered.headers.get("Retry-After") == value
    assert "throttled" in answered.json["detail"]


async def test_a_rate_limit_can_name_a_date_by_the_servers_clock() -> None:
    async with FakeVPS(faults=[RateLimit(2.5, form="date")]) as fake:
        answered = await ask(fake, "GET", LIST)
    date, until = (answered.headers[name] for name in ("Date", "Retry-After"))
    assert (parsedate_to_datetime(until) - parsedate_to_datetime(date)).total_seconds() == 3


async def test_a_server_fault_is_json_or_a_gateways_page() -> None:
    async with FakeVPS(faults=[ServerFault(retry_after=3, times=1)]) as fake:
        fake.inject(ServerFault(502, html=True))
        first, second = await ask(fake, "GET", LIST), await ask(fake, "GET", LIST)
    assert (first.status, first.headers["Retry-After"]) == (503, "3")
    assert "detail" in first.json
    assert (second.status, second.headers["Content-Type"]) == (502, "text/html; charset=utf-8")
    assert second.body.startswith(b"<!doctype html>")


@pytest.mark.parametrize(("when", "made"), [("before", 0), ("after", 1)])
async def test_a_dropped_connection_gives_no_byte_before_or_after_the_work(
    when: Any, made: int
) -> None:
    async with FakeVPS(servers=1, faults=[Drop(when)]) as fake:
        with pytest.raises((aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)):
            await post(fake)
        assert len(fake.backups) == made
        assert [seen.status for seen in fake.requests] == [None]
        assert fake.count("POST", status=201) == 0


@pytest.mark.parametrize("fault", [ServerFault(504, when="after"), Reply(500, when="after")])
async def test_any_error_can_come_after_the_work_was_done(fault: Fault) -> None:
    async with FakeVPS(servers=1, faults=[fault]) as fake:
        assert (await post(fake)).status >= 500
        assert len(fake.backups) == 1


async def test_a_truncated_reply_promises_more_than_comes() -> None:
    async with FakeVPS(servers=1, faults=[Truncate(), Truncate(1.0, method="POST")]) as fake:
        for call in (post(fake), ask(fake, "GET", LIST)):
            with pytest.raises(aiohttp.ClientPayloadError):
                await call
        assert len(fake.backups) == 1
        assert [seen.status for seen in fake.requests] == [201, 200]
        with pytest.raises(aiohttp.ClientError):
            await ask(fake, "DELETE", f"{LIST}1/")
        assert fake.backups == []


async def test_a_truncated_reply_shows_the_part_that_was_kept() -> None:
    async with FakeVPS(servers=1, backups=3, faults=[Truncate(0.25)]) as fake:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(fake.url.split(":")[2]))
        head = f"GET {LIST} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {fake.token}\r\n\r\n"
        writer.write(head.encode())
        raw = await reader.read()
        writer.close()
        await writer.wait_closed()
    head, _, body = raw.decode().partition("\r\n\r\n")
    promised = int(head.partition("Content-Length: ")[2].split()[0])
    assert len(body) == promised // 4


async def test_garbage_is_no_http() -> None:
    async with FakeVPS(servers=1, faults=[Garbage()]) as fake:
        with pytest.raises(aiohttp.ClientError):
            await post(fake)
        assert fake.backups == []


async def test_a_page_that_is_no_json_comes_with_200() -> None:
    async with FakeVPS(faults=[NotJSON(times=1), NotJSON(201, b"fine")]) as fake:
        first, second = await ask(fake, "GET", LIST), await ask(fake, "GET", LIST)
    assert (first.status, first.body[:6]) == (200, b"<html>")
    assert (second.status, second.body) == (201, b"fine")


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("size", [0, 5_000_000])
async def test_an_oversized_page_is_a_valid_list_of_that_size(size: int, chunked: bool) -> None:
    async with FakeVPS(faults=[Oversized(size, chunked=chunked)]) as fake:
        answered = await ask(fake, "GET", LIST)
    assert len(answered.body) == max(size, 52)
    assert answered.json["results"] == []
    assert ("Content-Length" in answered.headers) is not chunked


async def test_a_client_that_leaves_an_endless_page_ends_it() -> None:
    async with FakeVPS(faults=[Oversized(2**40)]) as fake:
        headers = {"Authorization": f"Bearer {fake.token}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            async with session.get(fake.url + LIST) as reply:
                assert len(await reply.content.readexactly(100_000)) == 100_000
                reply.close()
            async with session.get(f"{fake.url}/nothing") as reply:
                assert reply.status == 200


async def test_a_gzip_bomb_is_small_on_the_wire_and_a_valid_list_of_its_size() -> None:
    size = 20 * 2**20 + 7
    async with FakeVPS(faults=[GzipBomb(size)]) as fake:
        headers = {"Authorization": f"Bearer {fake.token}"}
        async with (
            aiohttp.ClientSession(headers=headers, auto_decompress=False) as session,
            session.get(fake.url + LIST) as reply,
        ):
            packed = await reply.read()
            assert reply.headers["Content-Encoding"] == "gzip"
        assert len(packed) < size / 500
        unpacked = gzip.decompress(packed)
        assert len(unpacked) == size
        assert json.loads(unpacked)["results"] == []
        assert (await ask(fake, "GET", LIST)).body == unpacked


async def test_a_hostile_next_replaces_the_link_of_lists_only() -> None:
    evil = "http://evil.example/api/v1/backups/?page=2"
    async with FakeVPS(servers=1, backups=3, paging="none", faults=[HostileNext(evil)]) as fake:
        answered = await ask(fake, "GET", LIST)
        assert answered.json["next"] == evil
        assert answered.ids == [3, 2, 1]
        assert "next" not in (await post(fake)).json
        assert (await ask(fake, "GET", f"{LIST}?server_id=x")).status == 400
        assert (await ask(fake, "GET", "/nothing")).status == 404
        fake.clear_faults()
        fake.inject(HostileNext(17, method=None))
        assert "next" not in (await post(fake)).json
        assert (await ask(fake, "DELETE", f"{LIST}1/")).status == 204
        assert (await ask(fake, "GET", LIST)).json["next"] == 17


async def test_a_redirect_leads_anywhere() -> None:
    async with FakeVPS(faults=[Redirect("https://evil.example/", 307)]) as fake:
        answered = await ask(fake, "GET", LIST)
    assert (answered.status, answered.headers["Location"]) == (307, "https://evil.example/")


async def test_a_canned_reply_comes_as_it_is() -> None:
    fault = Reply(418, b'{"a":1}', {"X-Tea": "yes"}, times=1)
    async with FakeVPS(faults=[fault, Reply(200, headers={"Content-Type": "x/y"})]) as fake:
        first, second = await ask(fake, "GET", LIST), await ask(fake, "GET", LIST)
    assert (first.status, first.json, first.headers["X-Tea"]) == (418, {"a": 1}, "yes")
    assert first.headers["Content-Type"] == "application/json"
    assert (second.body, second.headers["Content-Type"]) == (b"", "x/y")


async def test_a_kind_of_ones_own_decides_by_the_answer() -> None:
    class Upper(Fault):
        def strike(self, answer: Any, now: Any, /) -> Any:
            return type(answer)(answer.status, answer.body.upper(), answer.headers)

    async with FakeVPS(servers=1, faults=[Upper(when="after", times=1), Fault()]) as fake:
        assert b'"RESULTS"' in (await ask(fake, "GET", LIST)).body
        with pytest.raises(NotImplementedError):
            Fault().strike(None, fake.now)


async def test_a_fault_strikes_as_often_as_told_after_as_many_as_told() -> None:
    async with FakeVPS(faults=[ServerFault(after=1, times=2)]) as fake:
        assert await statuses(fake, 5) == [200, 503, 503, 200, 200]


async def test_a_fault_strikes_the_method_and_path_it_names() -> None:
    async with FakeVPS(servers=1, backups=1) as fake:
        fake.inject(ServerFault(500, method="get"), ServerFault(501, path="restore"))
        fake.inject(ServerFault(502, path="page=3"))
        assert await statuses(fake, 1) == [500]
        assert await statuses(fake, 1, "POST", "/api/v1/servers/1/restore/") == [501]
        assert await statuses(fake, 1, "DELETE", f"{LIST}9/?page=3") == [502]
        assert await statuses(fake, 1, "DELETE", f"{LIST}1/") == [204]
        fake.clear_faults()
        assert await statuses(fake, 1) == [200]


async def test_a_fault_strikes_the_query_it_names_by_whole_values() -> None:
    async with FakeVPS() as fake:
        fake.inject(ServerFault(500, query={"server_id": 3}))
        fake.inject(ServerFault(502, query={"server_id": None, "page": 1}))
        assert await statuses(fake, 1, "GET", f"{LIST}?server_id=31&page=1") == [200]
        assert await statuses(fake, 1, "GET", f"{LIST}?page=1&server_id=3") == [500]
        assert await statuses(fake, 1, "GET", f"{LIST}?page=1") == [502]
        assert await statuses(fake, 1) == [200]


async def test_the_first_fault_that_matches_wins() -> None:
    async with FakeVPS(faults=[ServerFault(500, times=1), ServerFault(502, times=1)]) as fake:
        assert await statuses(fake, 3) == [500, 502, 200]


async def test_a_random_fault_repeats_with_its_seed() -> None:
    runs = []
    for seed in (1, 1, 2):
        async with FakeVPS(faults=[ServerFault(chance=0.5)], seed=seed) as fake:
            runs.append(await statuses(fake, 30))
    assert runs[0] == runs[1] != runs[2]
    assert {200, 503} == set(runs[0])


@pytest.mark.virtual_time
async def test_latencies_add_up_and_go_together_with_another_fault() -> None:
    def by_method(seen: SeenRequest) -> float:
        return 3.0 if seen.method == "POST" else 0.0

    faults = [Latency(2), ServerFault(times=1), Latency(by_method)]
    loop = asyncio.get_running_loop()
    async with FakeVPS(servers=1, faults=faults) as fake:
        for status, seconds in ((503, 5.0), (201, 5.0)):
            start = loop.time()
            assert (await post(fake)).status == status
            assert loop.time() - start == pytest.approx(seconds)
        start = loop.time()
        await ask(fake, "GET", LIST)
        assert loop.time() - start == pytest.approx(2.0)


@pytest.mark.virtual_time
@pytest.mark.parametrize(("when", "made"), [("before", 0), ("after", 1)])
async def test_a_latency_delays_the_work_or_only_its_reply(when: Any, made: int) -> None:
    async with FakeVPS(servers=1, faults=[Latency(10, when=when)]) as fake:
        task = asyncio.create_task(post(fake))
        await asyncio.sleep(5)
        assert len(fake.backups) == made
        assert fake.requests[0].status is None
        assert (await task).status == 201
        assert len(fake.backups) == 1


@pytest.mark.virtual_time
async def test_a_create_is_done_although_the_client_left_meanwhile() -> None:
    async with FakeVPS(servers=1, faults=[Latency(10)]) as fake:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await post(fake)
        assert fake.backups == []
        await asyncio.sleep(6)
        assert len(fake.backups) == 1
        assert fake.requests[0].status is None


@pytest.mark.virtual_time
@pytest.mark.parametrize("fault", [Truncate(), Drop("after"), Oversized(9), NotJSON()])
async def test_no_fault_minds_a_client_that_left_meanwhile(fault: Fault) -> None:
    async with FakeVPS(servers=1, faults=[Latency(10), fault]) as fake:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(5):
                await post(fake)
        await asyncio.sleep(6)
        fake.clear_faults()
        assert (await post(fake)).status == 201
        assert [seen.status for seen in fake.requests] == [None, 201]


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "fault",
    [
        ServerFault(504, when="later", late=20),
        Drop("later", late=lambda seen: 20.0 * seen.json["server_id"]),
    ],
    ids=["a gateway's 504", "a cut connection"],
)
async def test_a_request_can_be_processed_after_the_fault_was_sent(fault: Fault) -> None:
    async with FakeVPS(servers=1, faults=[fault]) as fake:
        began = fake.now
        if isinstance(fault, Drop):
            with pytest.raises(aiohttp.ClientConnectionError):
                await post(fake)
        else:
            assert (await post(fake)).status == 504
        assert (fake.now - began).total_seconds() < 1
        await asyncio.sleep(19)
        assert fake.backups == []
        await asyncio.sleep(1)
        assert [backup["id"] for backup in fake.backups] == [1]


@pytest.mark.virtual_time
async def test_a_server_that_stops_forgets_what_it_would_process_later() -> None:
    async with FakeVPS(servers=1, faults=[ServerFault(502, when="later", late=20)]) as fake:
        await post(fake)
        await fake.stop()
        await asyncio.sleep(30)
        assert fake.backups == []


@pytest.mark.virtual_time
async def test_a_function_of_the_caller_that_raises_late_is_raised_at_the_end() -> None:
    def seconds(_: Any) -> float:
        raise LookupError("no such plan")

    fake = FakeVPS(servers=1, faults=[ServerFault(502, when="later")], backup_seconds=seconds)
    with pytest.raises(LookupError, match="plan"):
        async with fake:
            await post_and_wait(fake)
