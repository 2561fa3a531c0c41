"""S4: the time to decode a page of 100 backups into values."""

import timeit
from collections.abc import Callable

from benchmarks._pydantic_models import Listing
from benchmarks._server import body, pin
from benchmarks._table import Verdict
from vpsbackups_async._wire import BACKUPS, Response, read_page

_BACKUPS = 100
_ROUNDS = 25
_LOOPS = 400


def run(verdict: Verdict) -> None:
    """Measure each decoder in turn; the best of several rounds counts."""
    import orjson  # in the group `bench`, and used only here

    pin(0)
    content = body(range(_BACKUPS, 0, -1), _BACKUPS)
    reply = Response(200, {}, content, BACKUPS.request(""))
    decoders: dict[str, Callable[[], object]] = {
        "ours": lambda: read_page(reply),
        "orjson": lambda: orjson.loads(content),
        "pydantic": lambda: Listing.model_validate_json(content),
    }
    verdict.check("a page decoded whole", right=len(read_page(reply).items) == _BACKUPS)
    loops = verdict.size(_LOOPS, 2)
    best = dict.fromkeys(decoders, float("inf"))
    for _ in range(verdict.size(_ROUNDS, 1)):
        for name, decode in decoders.items():
            best[name] = min(best[name], timeit.timeit(decode, number=loops) / loops * 1e6)
    peers = {name: best[name] for name in ("orjson", "pydantic")}
    what = f"S4 decoding a page of {_BACKUPS} ({len(content):,} bytes)"
    for name, target in (("orjson", 1.7), ("pydantic", 0.6)):
        verdict.compare(f"{what} beside {name}", best["ours"], best[name], target, peers=peers)
