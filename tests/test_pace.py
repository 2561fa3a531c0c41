"""Whether servers' lists are read sooner than the whole list."""

import math

import pytest

from vpsbackups_async._lists.pace import Pace


def measured(page: float, own: float | None = None) -> Pace:
    pace = Pace()
    pace.page_answered(page, 0.0)
    if own is not None:
        pace.list_answered(own)
    return pace


@pytest.mark.parametrize(
    ("page", "own", "pages", "servers", "slower"),
    [
        (2.0, 0.02, 50, 60, True),
        (2.0, None, 50, 60, True),
        (0.1, 0.02, 50, 60, False),
        (0.2, 0.02, 50, 60, True),
        (2.0, 30.0, 50, 60, False),
        (2.0, 0.02, 50, 501, False),
        (2.0, 0.02, math.inf, math.inf, False),
    ],
    ids=[
        "slow pages",
        "servers not measured",
        "five seconds",
        "more than five",
        "slow servers",
        "too many servers",
        "a server that is not known",
    ],
)
def test_servers_lists_are_preferred_to_a_sweep_that_takes_long_where_they_take_less(
    page: float, own: float | None, pages: float, servers: float, slower: bool
) -> None:
    assert measured(page, own).is_slower(pages, servers, 1.0) is slower


def test_one_slow_page_among_fast_ones_changes_little() -> None:
    pace = measured(0.02)
    pace.page_answered(0.25, 1.0)
    assert not pace.is_slower(50, 60, 1.0)


def test_a_slow_list_is_tried_again_after_five_minutes() -> None:
    pace = measured(9.0)
    assert pace.is_slower(50, 60, 299.0)
    assert not pace.is_slower(50, 60, 300.0)
    pace.page_answered(0.02, 300.0)
    assert not pace.is_slower(50, 60, 301.0)
