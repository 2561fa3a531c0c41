"""`on_progress`: how far a bulk job is, now and then and at the end."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import pairwise
from typing import Any

import pytest

from vpsbackups_async import BackupsClient, ConstantBackoff, FleetError, Progress, fan_out
from vpsbackups_async.testing import FakeVPS


async def second(number: int) -> int:
    await asyncio.sleep(1)
    if number % 10 == 9:
        raise LookupError(number)
    return number


async def run(
    work: Any, items: Any, *, concurrency: int = 10, **options: Any
) -> list[tuple[float, Progress]]:
    """All reports of a run, each with its moment."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    reports: list[tuple[float, Progress]] = []

    def note(progress: Progress) -> None:
        reports.append((loop.time() - start, progress))

    async for _ in fan_out(work, items, concurrency=concurrency, on_progress=note, **options):
        pass
    return reports


@pytest.mark.virtual_time
async def test_the_last_report_counts_everything() -> None:
    moment, last = (await run(second, range(100)))[-1]
    assert moment == pytest.approx(10, abs=0.1)
    assert (last.done, last.ok, last.failed, last.running, last.total) == (100, 90, 10, 0, 100)
    assert last.elapsed == pytest.approx(10, abs=0.1)
    assert last.rate == pytest.approx(10, abs=0.2)
    assert last.remaining == 0


@pytest.mark.virtual_time
async def test_reports_tell_what_runs_and_how_long_the_rest_will_take() -> None:
    reports = await run(second, range(100))
    first = reports[0][1]
    assert (first.done, first.running, first.rate, first.remaining) == (0, 10, 0, None)
    halfway = next(progress for _, progress in reports if progress.done >= 50)
    assert halfway.done + halfway.running <= 60
    assert all(progress.done + progress.running <= 100 for _, progress in reports)
    assert halfway.remaining == pytest.approx(5, abs=0.3)


@pytest.mark.virtual_time
@pytest.mark.parametrize("seconds", [0.001, 0.03, 0.1])
async def test_reports_come_at_most_four_times_a_second_and_at_the_end(seconds: float) -> None:
    async def work(_: int) -> None:
        await asyncio.sleep(seconds)

    reports = await run(work, range(1000), concurrency=10)
    moments = [moment for moment, _ in reports]
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert all(gap >= 0.249 for gap in gaps[:-1])  # the last report waits for nothing
    assert reports[-1][1].done == 1000
    assert len(reports) <= 2 + 4 * moments[-1]


@pytest.mark.virtual_time
async def test_the_last_change_before_a_silence_is_told_within_the_quarter_second() -> None:
    async def work(number: int) -> None:
        await asyncio.sleep([0.1, 0.2, 60][number])

    reports = await run(work, range(3))
    assert [(round(moment, 2), progress.done) for moment, progress in reports] == [
        (0, 0),
        (0.25, 2),
        (60, 3),
        *([(60, 3)] if len(reports) == 4 else []),
    ]


@pytest.mark.virtual_time
async def test_the_total_is_none_where_the_input_does_not_tell_it() -> None:
    async def trickle() -> AsyncIterator[int]:
        for number in range(5):
            await asyncio.sleep(1)
            yield number

    for items in (iter(range(5)), trickle()):
        reports = await run(second, items)
        assert {progress.total for _, progress in reports} == {None}
        assert {progress.remaining for _, progress in reports} == {None}
        assert reports[-1][1].done == 5


@pytest.mark.virtual_time
async def test_what_was_not_attempted_counts_as_failed() -> None:
    _, last = (await run(second, range(9, 30), concurrency=1, on_error="stop"))[-1]
    assert (last.done, last.ok, last.failed) == (21, 0, 21)


@pytest.mark.virtual_time
async def test_a_callback_that_raises_is_logged_once_and_breaks_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    calls = 0

    def broken(_: Progress) -> None:
        nonlocal calls
        calls += 1
        raise LookupError("the terminal is gone")

    count = 0
    async for _ in fan_out(second, range(40), concurrency=5, on_progress=broken):
        count += 1
    assert count == 40
    assert calls > 2
    records = [record for record in caplog.records if "on_progress" in record.message]
    assert len(records) == 1
    assert records[0].levelno == logging.WARNING
    assert "the terminal is gone" in caplog.text


@pytest.mark.virtual_time
async def test_leaving_early_reports_once_more_and_then_no_more() -> None:
    reports: list[Progress] = []
    outcomes = fan_out(second, range(100), concurrency=3, on_progress=reports.append)
    async with aclosing(outcomes):
        await anext(outcomes)
        await anext(outcomes)
    assert (reports[-1].done, reports[-1].running) == (3, 0)
    told = len(reports)
    await asyncio.sleep(5)
    assert len(reports) == told


@pytest.mark.virtual_time
@pytest.mark.parametrize(("max_running", "most"), [(None, 20), (5, 5)])
async def test_a_fleet_of_creates_counts_what_it_waits_for_as_running(
    max_running: int | None, most: int
) -> None:
    reports: list[Progress] = []
    async with (
        FakeVPS(servers=20, backup_seconds=30, fails=[3]) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        fleet = client.fleet(range(1, 21), concurrency=2)
        async for _ in fleet.create(
            wait=True,
            backoff=ConstantBackoff(1),
            max_running=max_running,
            on_progress=reports.append,
        ):
            pass
    last = reports[-1]
    assert (last.done, last.ok, last.failed, last.running, last.total) == (20, 19, 1, 0, 20)
    assert max(report.running for report in reports) == most
    # All that run are told of soon after they were started, not only when the first has ended.
    assert max(report.running for report in reports if not report.done) == most
    assert all(report.done + report.running <= 20 for report in reports)


@pytest.mark.virtual_time
@pytest.mark.parametrize(("servers", "whole"), [(10, False), (40, True)])
async def test_a_fleet_s_list_reports_its_progress_in_servers(servers: int, whole: bool) -> None:
    reports: list[Progress] = []
    async with (
        FakeVPS(servers=servers, backups=25) as fake,
        BackupsClient(fake.token, base_url=fake.url) as client,
    ):
        fleet = client.fleet([*range(1, servers + 1), 0], concurrency=2)

        async def read() -> None:
            async for _ in fleet.list(on_progress=reports.append):
                await asyncio.sleep(0.01)

        with pytest.raises(FleetError):
            await read()
        assert (fake.count(path="server_id") == 0) is whole
    dones = [report.done for report in reports]
    assert dones == sorted(dones)
    assert len(reports) > 4
    last = reports[-1]
    assert (last.ok, last.failed, last.running, last.total) == (servers, 1, 0, servers + 1)
    assert max(report.running for report in reports) == (servers if whole else 2)


def test_a_callback_that_cannot_be_called_is_refused_at_the_call() -> None:
    with pytest.raises(ValueError, match="on_progress"):
        fan_out(second, [1], on_progress=5)  # type: ignore[arg-type]  # wrong on purpose


def test_no_rate_is_no_guess_about_the_end() -> None:
    assert Progress(0, 0, 0, 3, 10, 5.0).remaining is None
    assert Progress(0, 0, 0, 0, 0, 0.0).remaining == 0
    assert Progress(5, 5, 0, 0, None, 5.0).remaining is None
    assert Progress(5, 4, 1, 0, 10, 5.0).remaining == 5
    assert Progress(12, 12, 0, 0, 10, 5.0).remaining == 0
