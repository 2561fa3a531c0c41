"""Pages of which some backups cannot be read."""

import json
from typing import Any

import pytest
from helpers_streams import ids_of

from vpsbackups_async import Backup, InvalidResponseError, Page
from vpsbackups_async._lists.readable import readable_backups
from vpsbackups_async._wire import BACKUPS, Response


def item(number: int, **fields: object) -> dict[str, object]:
    return {
        "id": number,
        "server": {"id": 1, "name": "web"},
        "backup_type": "manual",
        "status": "completed",
        "size_mb": 5,
        "created_at": "2025-01-16T00:00:00Z",
        "expires_at": None,
        "description": "",
        **fields,
    }


def read(body: Any) -> tuple[Page[Backup], list[InvalidResponseError]]:
    """The page that this JSON is, and the errors of what was left out."""
    errors: list[InvalidResponseError] = []
    listing = readable_backups(errors.append)
    response = Response(200, {}, json.dumps(body).encode(), listing.request(""))
    return listing.read(response), errors


def test_a_page_that_can_be_read_is_as_any_other() -> None:
    body = {"count": 2, "next": None, "results": [item(1), item(2)]}
    response = Response(200, {}, json.dumps(body).encode(), BACKUPS.request(""))
    assert read(body) == (BACKUPS.read(response), [])


@pytest.mark.parametrize("bad", [item(2, size_mb="big"), {"id": 2}, None, "text", item(True)])
def test_backups_that_cannot_be_read_are_left_out_and_the_first_ones_error_is_told(
    bad: object,
) -> None:
    page, (error,) = read({"count": 9, "next": "?page=2", "results": [item(1), bad, bad, item(3)]})
    assert ids_of(page.items) == [1, 3]
    assert (page.count, page.next) == (7, "?page=2")
    assert "results[1]" in str(error)
    assert error.__traceback__ is None


@pytest.mark.parametrize("page", [[item(1), None], {"results": [item(1), None]}])
def test_a_page_without_a_count_gets_none(page: object) -> None:
    assert ids_of(read(page)[0].items) == [1]
    assert read(page)[0].count is None


@pytest.mark.parametrize(
    "body",
    [
        {"count": 2, "results": [None, {"id": 1}]},
        {"count": "two", "results": [item(1), None]},
        {"count": 2, "results": {"1": item(1)}},
        {"count": 2},
        [None],
        "text",
        None,
    ],
    ids=["nothing valid", "bad count", "no list", "no results", "an array", "a text", "null"],
)
def test_a_page_with_nothing_valid_or_invalid_otherwise_raises(body: object) -> None:
    with pytest.raises(InvalidResponseError):
        read(body)


def test_what_is_no_json_raises() -> None:
    listing = readable_backups(lambda _: None)
    with pytest.raises(InvalidResponseError):
        listing.read(Response(200, {}, b"<html>", listing.request("")))
