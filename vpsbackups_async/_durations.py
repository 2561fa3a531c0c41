"""How long the backups of each server took, for `LearnedBackoff`."""

import random
from bisect import insort
from collections.abc import Sequence
from typing import Annotated, Final, NamedTuple, Self, TypeVar

import msgspec
from attrs import define, field

from vpsbackups_async._checks import check_int, check_number

__all__ = ["DurationHistory", "read_json"]

_ENOUGH_DURATIONS: Final = 5
"""With this many durations, the next one is expected to be like one of them."""
_SPREAD: Final = (0.8, 0.87, 0.93, 0.97, 1.0, 1.03, 1.07, 1.15, 1.25)
"""Multiples of the usual duration that are expected instead, if a server has fewer durations."""
_JUST_OVER: Final = 0.95
"""A backup that the first poll finds completed is taken to have ended at this fraction of it."""
T = TypeVar("T")
_Seconds = Annotated[float, msgspec.Meta(ge=0)]
_Id = Annotated[int, msgspec.Meta(ge=1)]


class _Known(NamedTuple):
    """What is known of a server's backups.

    `late` is whether the first poll of the last one found it completed; `guess` is a duration in
    seconds to try, after that has happened more than once in a row.
    """

    durations: tuple[tuple[_Seconds, int | None], ...] = ()
    late: bool = False
    guess: _Seconds | None = None


class _StoredHistory(msgspec.Struct):
    """A `DurationHistory` as JSON holds it."""

    per_server: int
    servers: int
    overall: int
    added: Annotated[int, msgspec.Meta(ge=0)]
    sample: list[_Seconds]
    by_server: dict[_Id, _Known]


@define
class DurationHistory:
    """How long past backups took, for a `LearnedBackoff`.

    It keeps the last `per_server` durations and sizes of each server, for the `servers` servers
    that had a backup last; durations are in seconds, sizes in MB as the API counts them. It also
    keeps a random sample of `overall` durations of all servers. The latest durations would be a
    biased sample: of the backups that start on one night, the longest end last.

    `len()` gives the number of durations added so far. A history can be pickled, and stored by
    `to_json`. Raises `ValueError` unless the three limits are positive ints.
    """

    per_server: int = 5
    servers: int = 100_000
    overall: int = 256
    _by_server: dict[int, _Known] = field(factory=dict, repr=False)
    _sample: list[float] = field(factory=list, repr=False)
    _added: int = field(default=0, repr=False)

    def __attrs_post_init__(self) -> None:
        for name in ("per_server", "servers", "overall"):
            check_int(name, getattr(self, name))

    def __len__(self) -> int:
        return self._added

    def add(self, server_id: int, seconds: float, size_mb: int | None) -> None:
        """Add a backup that took `seconds`; `size_mb` is its size in MB, None if not known.

        Raises `ValueError` unless `seconds` is a finite number of zero or more.
        """
        check_number("seconds", seconds)
        self._add(server_id, seconds, size_mb, late=False)

    def add_late(self, server_id: int, seconds: float, size_mb: int | None) -> None:
        """Add a backup whose first poll, after `seconds`, found it completed.

        How long it took is not known. The first time it is taken to have ended just before, as the
        first poll comes when a part of the backups has ended. If that happens again, the server's
        backups may have become much faster: half of `seconds` is expected as well. If that is too
        late too, durations of `seconds` or more are forgotten.

        Raises `ValueError` unless `seconds` is a finite number of zero or more.
        """
        check_number("seconds", seconds)
        known = self._by_server.get(server_id, _Known())
        if not known.late:
            expected = self.expected(server_id)
            most = expected[len(expected) // 2] if expected else seconds
            self._add(server_id, min(_JUST_OVER * seconds, most), size_mb, late=True)
            return
        durations = known.durations
        if known.guess is not None:
            durations = tuple(one for one in durations if one[0] < seconds)
        self._keep(server_id, _Known(durations, late=True, guess=seconds / 2))

    def _add(self, server_id: int, seconds: float, size_mb: int | None, *, late: bool) -> None:
        own = self._by_server.get(server_id, _Known()).durations
        self._keep(server_id, _Known((*own, (seconds, size_mb))[-self.per_server :], late))
        self._added += 1
        if len(self._sample) == self.overall:
            # Reservoir sampling: every duration so far is in the sample with the same probability.
            if random.random() * self._added >= self.overall:
                return
            del self._sample[random.randrange(self.overall)]
        insort(self._sample, seconds)

    def _keep(self, server_id: int, known: _Known) -> None:
        """Keep this of a server as the last one that had a backup."""
        self._by_server.pop(server_id, None)
        self._by_server[server_id] = known
        if len(self._by_server) > self.servers:
            del self._by_server[next(iter(self._by_server))]

    def to_json(self) -> bytes:
        """All of the history as JSON, which `from_json` reads back."""
        limits = self.per_server, self.servers, self.overall
        return msgspec.json.encode(
            _StoredHistory(*limits, self._added, self._sample, self._by_server)
        )

    @classmethod
    def from_json(cls, text: bytes | str) -> Self:
        """The history that `to_json` wrote; raises `ValueError` for any other text."""
        stored = read_json(cls, text, _StoredHistory)
        history = cls(stored.per_server, stored.servers, stored.overall)
        history._sample = sorted(stored.sample)[: stored.overall]
        history._added = max(stored.added, len(history._sample))
        for server_id, known in stored.by_server.items():
            durations = known.durations[-stored.per_server :]
            history._keep(server_id, known._replace(durations=durations))
        return history

    def of_server(self, server_id: int) -> list[tuple[float, int | None]]:
        """The last backups of a server, oldest first: duration in seconds, size in MB or None."""
        return list(self._by_server.get(server_id, _Known()).durations)

    def expected(self, server_id: int | None) -> Sequence[float]:
        """The durations in seconds to expect for a server's next backup, shortest first.

        They come from the server's own backups, or from the sample of all servers if the server has
        none yet. The result is empty if the sample is too small as well.
        """
        known = None if server_id is None else self._by_server.get(server_id)
        if known is None:
            return self._sample if len(self._sample) >= _ENOUGH_DURATIONS else ()
        seconds = sorted(taken for taken, _ in known.durations)
        if 0 < len(seconds) < _ENOUGH_DURATIONS:
            # Not above the last one, nor above the lower median: a slow night delays no other.
            last, _ = known.durations[-1]
            middle = min(last, seconds[(len(seconds) - 1) // 2])
            seconds = [middle * factor for factor in _SPREAD]
        if known.guess is not None:
            insort(seconds, known.guess)
            insort(seconds, 2 * known.guess)
        return seconds


def read_json(kind: type, text: bytes | str, form: type[T]) -> T:
    """The JSON of this form; raises `ValueError`, which names the place of the invalid value."""
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    try:
        return msgspec.json.decode(raw, type=form)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"that is not the JSON of a {kind.__name__}: {error}") from None
