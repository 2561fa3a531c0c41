"""The one place that opens lists: a page size that is refused, and filters applied again."""

from urllib.parse import parse_qsl

import pytest
from helpers_streams import lists_over, make_all

from vpsbackups_async import Backup, BadRequestError, Page
from vpsbackups_async._lists.lists import Lists, backups_query


class Picky:
    """A list of 12 backups, 3 a page, that takes `page_size` below a limit; it never links."""

    def __init__(self, limit: int = 1) -> None:
        self.limit = limit
        self.asked: list[str] = []
        self.fails_on_page: int | None = None

    async def fetch(self, listing: object, on_response: object, query: str) -> Page[Backup]:
        self.asked.append(query)
        asked = dict(parse_qsl(query))
        number = int(asked.get("page", 1))
        size = int(asked.get("page_size", 3))
        if number == self.fails_on_page or ("page_size" in asked and size >= self.limit):
            raise BadRequestError(400, "no")
        start = (number - 1) * size
        return Page(make_all(range(1, 13))[start : start + size], 12)

    def lists(self) -> Lists:
        return lists_over(self.fetch)


async def read(lists: Lists, page_size: int | None, prefetch: int = 0) -> list[int]:
    walk = lists.open(backups_query(page_size=page_size), prefetch=prefetch)
    return [backup.id for backup in (await walk.read()).items]


@pytest.mark.parametrize("prefetch", [0, 2])
async def test_a_list_whose_page_size_is_refused_is_read_whole_in_the_server_s_own_pages(
    prefetch: int,
) -> None:
    picky = Picky()
    assert await read(picky.lists(), 100, prefetch) == list(range(1, 13))
    assert picky.asked == ["page_size=100", "", "page=2", "page=3", "page=4"]


async def test_a_refused_page_size_and_larger_ones_are_not_asked_for_again() -> None:
    picky = Picky(limit=5)
    lists = picky.lists()
    await read(lists, 50)
    await read(lists, 8)
    picky.asked.clear()
    for page_size in (100, 50, 20, 8):
        assert await read(lists, page_size) == list(range(1, 13))
    assert [query for query in picky.asked if "page_size" in query] == []
    assert await read(lists, 4) == list(range(1, 13))
    assert picky.asked[-3] == "page_size=4"


async def test_a_400_on_a_later_page_is_the_error_for_another_size_would_cut_the_list_anew() -> (
    None
):
    picky = Picky(limit=5)
    picky.fails_on_page = 2
    lists = picky.lists()
    with pytest.raises(BadRequestError):
        await read(lists, 4)
    assert picky.asked == ["page_size=4", "page_size=4&page=2"]
    picky.fails_on_page = None
    assert await read(lists, 4) == list(range(1, 13))


@pytest.mark.parametrize(
    ("fields", "requests"),
    [({}, 2), ({"page_size": ["too large"]}, 2), ({"server_id": ["no such server"]}, 1)],
    ids=["no field", "page_size", "another field"],
)
async def test_a_400_that_names_only_another_field_is_not_taken_for_a_refused_page_size(
    fields: dict[str, list[str]], requests: int
) -> None:
    asked: list[str] = []

    async def fetch(listing: object, on_response: object, query: str) -> Page[Backup]:
        asked.append(query)
        raise BadRequestError(400, "", fields)

    with pytest.raises(BadRequestError):
        await read(lists_over(fetch), 50)
    assert len(asked) == requests


async def test_which_filters_a_server_ignores_is_known_from_the_last_page_that_told() -> None:
    """`make_all` gives manual backups of server 1."""
    picky = Picky(limit=99)
    lists = picky.lists()

    async def read_server(server_id: int, kind: str | None = None) -> set[str]:
        await lists.open(backups_query(server_id, kind)).read()
        return lists.ignored_filters

    assert await read_server(1) == set()
    assert await read_server(2) == {"server_id"}
    assert await read_server(2, "automatic") == {"server_id", "backup_type"}
    assert await read_server(1) == {"backup_type"}
    assert await read_server(1, "manual") == set()
