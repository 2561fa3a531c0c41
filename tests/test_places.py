"""The places for lists that are read at once: who gets in, who leaves one, who is given up."""

import asyncio

import pytest

from vpsbackups_async._lists.places import Places
from vpsbackups_async._lists.turns import Turn
from vpsbackups_async._transport.calls import SendState

pytestmark = pytest.mark.virtual_time
GOOD = Turn(limited=False, slow=False, failures=0, asked=0.0)


class Readers:
    """Readings of lists in shared places; each takes `seconds` from when it has a place.

    `began` has the names of those that got a place, with the time; `ended` what became of each.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.places = Places(lambda: self.limit)
        self.began: dict[str, float] = {}
        self.ended: dict[str, str] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def start(
        self, name: str, seconds: float, *, turn: Turn = GOOD, on_the_wire: bool = True
    ) -> None:
        self.tasks[name] = asyncio.create_task(self._read(name, seconds, turn, on_the_wire))

    async def _read(self, name: str, seconds: float, turn: Turn, on_the_wire: bool) -> None:
        send, loop = SendState(), asyncio.get_running_loop()

        async def work() -> None:
            self.began[name] = loop.time()
            send.on_the_wire, send.began = on_the_wire, [loop.time()]
            await asyncio.sleep(seconds)

        try:
            await self.places.read(work, send, turn)
        except TimeoutError:
            self.ended[name] = "given up"
        else:
            self.ended[name] = "read"

    async def close(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)


async def test_sixteen_lists_are_read_at_once_and_the_next_when_one_ends() -> None:
    readers = Readers()
    for number in range(20):
        readers.start(str(number), 1.0 + (number == 5) * -0.5)
    await asyncio.sleep(0.4)
    assert len(readers.began) == 16
    await asyncio.sleep(0.2)
    assert list(readers.began)[16:] == ["16"]
    await asyncio.gather(*readers.tasks.values())
    assert set(readers.ended.values()) == {"read"}


async def test_a_list_that_hangs_leaves_its_place_to_one_that_waits_and_is_read_on() -> None:
    readers = Readers()
    for number in range(16):
        readers.start(f"hangs {number}", 30)
    await asyncio.sleep(10)
    readers.start("other", 0)
    await asyncio.sleep(1)
    assert readers.ended == {"other": "read"}
    await asyncio.gather(*readers.tasks.values())
    assert set(readers.ended.values()) == {"read"}


async def test_of_too_many_lists_that_hang_the_oldest_are_given_up() -> None:
    readers = Readers()
    for number in range(48):
        readers.start(str(number), 30)
    await asyncio.sleep(6.4)
    given_up = [name for name, ended in readers.ended.items() if ended == "given up"]
    assert given_up == [str(number) for number in range(8)]
    await readers.close()


async def test_a_list_whose_request_was_not_sent_yet_does_not_hang() -> None:
    readers = Readers()
    for number in range(20):
        readers.start(str(number), 30, on_the_wire=False)
    await asyncio.sleep(20)
    assert len(readers.began) == 16
    await readers.close()


async def test_lists_hang_later_where_answers_usually_take_long() -> None:
    readers = Readers()
    for _ in range(40):
        readers.places.answered(8.0)
    for number in range(17):
        readers.start(str(number), 30)
    await asyncio.sleep(15)
    assert len(readers.began) == 16
    await asyncio.sleep(2)
    assert len(readers.began) == 17
    await readers.close()


async def test_one_slow_answer_among_many_changes_little() -> None:
    readers = Readers()
    for seconds in (*[0.1] * 20, 25.0, *[0.1] * 6):
        readers.places.answered(seconds)
    for number in range(17):
        readers.start(str(number), 30)
    await asyncio.sleep(4)
    assert len(readers.began) == 17
    await readers.close()


async def test_lists_hang_as_soon_where_half_of_the_answers_take_long() -> None:
    readers = Readers()
    for seconds in [0.1, 25.0] * 20:
        readers.places.answered(seconds)
    for number in range(17):
        readers.start(str(number), 30)
    await asyncio.sleep(4)
    assert len(readers.began) == 17
    await readers.close()


async def test_lists_that_failed_have_eight_places_and_come_by_their_turns() -> None:
    readers = Readers()
    for number in range(8):
        readers.start(str(number), 1, turn=GOOD._replace(failures=1))
    for name, slow, failures, asked in (
        ("slow", True, 1, 0.0),
        ("later", False, 2, 5.0),
        ("sooner", False, 2, 4.0),
        ("once", False, 1, 9.0),
    ):
        readers.start(name, 1, turn=Turn(limited=False, slow=slow, failures=failures, asked=asked))
    readers.start("good", 0)
    await asyncio.sleep(0.5)
    assert list(readers.began) == [*map(str, range(8)), "good"]
    await asyncio.sleep(1)
    assert list(readers.began)[9:] == ["once", "sooner", "later", "slow"]
    await readers.close()


async def test_lists_that_answered_with_a_429_are_read_one_at_a_time_beside_the_others() -> None:
    readers = Readers()
    for name in ("first", "second"):
        readers.start(name, 1, turn=GOOD._replace(limited=True))
    readers.start("good", 0)
    await asyncio.sleep(0.5)
    assert list(readers.began) == ["first", "good"]
    await asyncio.sleep(1)
    assert list(readers.began)[2:] == ["second"]
    await readers.close()


async def test_lists_that_failed_leave_most_of_a_low_limit_to_the_others() -> None:
    readers = Readers(limit=8)
    for number in range(20):
        readers.start(str(number), 10, turn=GOOD._replace(failures=1))
    await asyncio.sleep(1)
    assert len(readers.began) == 1
    readers.limit = 64
    await asyncio.sleep(10)
    assert len(readers.began) == 1 + 8
    await readers.close()


async def test_of_lists_that_hang_fewer_are_read_on_under_a_low_limit() -> None:
    readers = Readers(limit=8)
    for number in range(20):
        readers.start(str(number), 30)
    await asyncio.sleep(3.9)
    assert list(readers.ended.values()) == ["given up"]
    await readers.close()


async def test_a_place_that_comes_as_its_reader_is_cancelled_goes_to_the_next() -> None:
    readers = Readers()
    for number in range(16):
        readers.start(str(number), 1)
    for name in ("cancelled", "next"):
        readers.start(name, 1)
    await asyncio.sleep(0.5)
    for number in range(16):
        readers.tasks[str(number)].cancel()
    await asyncio.sleep(0)  # the first one left its place, which the next reader did not take yet
    readers.tasks["cancelled"].cancel()
    for number in range(16):
        readers.start(f"later {number}", 1)
    await asyncio.sleep(0.1)
    assert len([name for name in readers.began if name not in map(str, range(16))]) == 16
    await readers.close()


async def test_readers_that_are_cancelled_in_line_take_no_place() -> None:
    readers = Readers()
    for number in range(18):
        readers.start(str(number), 1)
    await asyncio.sleep(0.5)
    readers.tasks["16"].cancel()
    await asyncio.sleep(1)
    assert "17" in readers.began
    assert "16" not in readers.began
    await readers.close()
