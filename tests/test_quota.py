"""The rate limit that a server tells of in its headers."""

from collections.abc import Mapping

import pytest
from helpers_transport import RawServer, http
from multidict import CIMultiDict

from vpsbackups_async import BackupsClient, RateLimitStatus
from vpsbackups_async._transport.quota import read_rate_limit

DATE = "Wed, 25 Nov 2026 00:00:00 GMT"
AT = 1795564800


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({}, None),
        ({"RateLimit": "", "X-RateLimit-Limit": "soon"}, None),
        (
            {"X-RateLimit-Limit": "100", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "30"},
            (100, 0, 30),
        ),
        ({"x-ratelimit-remaining": "7"}, (None, 7, None)),
        ({"X-RateLimit-Reset": str(AT + 90), "Date": DATE}, (None, None, 90)),
        ({"X-RateLimit-Reset": str(AT - 90), "Date": DATE}, (None, None, 0)),
        ({"X-RateLimit-Reset": "2.5"}, (None, None, 2)),
        (
            {"RateLimit-Limit": "10, 10;w=60", "RateLimit-Remaining": "4", "RateLimit-Reset": "7"},
            (10, 4, 7),
        ),
        ({"RateLimit": "limit=10, remaining=4, reset=7"}, (10, 4, 7)),
        ({"RateLimit": '"default";r=4;t=7'}, (None, 4, 7)),
        ({"X-RateLimit-Remaining": "9" * 40}, None),
        ({"X-RateLimit-Remaining": "٣"}, None),
        ({"X-RateLimit-Remaining": "-3"}, None),
    ],
    ids=lambda value: str(value)[:60],
)
def test_the_headers_of_a_rate_limit_are_read(
    headers: Mapping[str, str], told: tuple[int, int, float] | None
) -> None:
    expected = None if told is None else RateLimitStatus(*told)
    assert read_rate_limit(CIMultiDict(headers)) == expected


async def test_the_stats_of_a_client_show_what_the_server_told_last() -> None:
    told = iter([{"RateLimit": "limit=60, remaining=3"}, {"X_RateLimit_Remaining": "2"}, {}])

    def answer(_request: bytes) -> bytes:
        return http(**next(told))

    async with (
        RawServer(answer).running() as server,
        BackupsClient("vps_x", base_url=server.url) as client,
    ):
        assert client.stats.rate_limit is None
        for expected in ((60, 3, None), (None, 2, None), (None, 2, None)):
            await client.list().collect()
            assert client.stats.rate_limit == RateLimitStatus(*expected)
