"""A backoff that learns how long the backups of each server take."""

import math
import random
from bisect import bisect_right, insort
from collections.abc import Sequence
from typing import Final

from attrs import define, field, frozen

from vpsbackups_async._checks import check_callable, check_int, check_number
from vpsbackups_async.backoff import Attempt, Backoff, ExponentialBackoff
from vpsbackups_async.models import Backup

__all__ = ["DurationHistory", "LearnedBackoff"]

_ENOUGH_DURATIONS: Final = 5
"""With this many durations, the next one is expected to be like one of them."""
_SPREAD: Final = (0.8, 0.87, 0.93, 0.97, 1.0, 1.03, 1.07, 1.15, 1.25)
"""Multiples of the median that are expected instead, if a server has fewer durations."""


@define
class DurationHistory:
    """How long past backups took, for a `LearnedBackoff`.

    It keeps the last `per_server` durations and sizes of each server, for the `servers` servers
    that had a backup last; durations are in seconds, sizes in MB as the API counts them. It also
    keeps a random sample of `overall` durations of all servers. The latest durations would be a
    biased sample: of the backups that start on one night, the longest end last.

    `len()` gives the number of backups added so far. A history can be pickled. Raises `ValueError`
    unless the three limits are positive ints.
    """

    per_server: int = 5
    servers: int = 100_000
    overall: int = 256
    _by_server: dict[int, tuple[tuple[float, int | None], ...]] = field(factory=dict, repr=False)
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
        own = self._by_server.pop(server_id, ())
        self._by_server[server_id] = (*own, (seconds, size_mb))[-self.per_server :]
        if len(self._by_server) > self.servers:
            del self._by_server[next(iter(self._by_server))]
        self._added += 1
        if len(self._sample) == self.overall:
            # Reservoir sampling: every duration so far is in the sample with the same probability.
            if random.random() * self._added >= self.overall:
                return
            del self._sample[random.randrange(self.overall)]
        insort(self._sample, seconds)

    def of_server(self, server_id: int) -> list[tuple[float, int | None]]:
        """The last backups of a server, oldest first: duration in seconds, size in MB or None."""
        return list(self._by_server.get(server_id, ()))

    def expected(self, server_id: int | None) -> Sequence[float]:
        """The durations in seconds to expect for a server's next backup, shortest first.

        They come from the server's own backups, or from the sample of all servers if the server has
        none yet. The result is empty if the sample is too small as well.
        """
        own = () if server_id is None else self._by_server.get(server_id, ())
        if not own:
            return self._sample if len(self._sample) >= _ENOUGH_DURATIONS else ()
        seconds = sorted(taken for taken, _ in own)
        if len(own) >= _ENOUGH_DURATIONS:
            return seconds
        middle = seconds[len(seconds) // 2]
        return [middle * factor for factor in _SPREAD]


@frozen
class LearnedBackoff:
    """A backoff that polls when backups of this server, or of all servers, usually end.

    It learns how long backups take from each wait that begins with the backup `in_progress`, as
    `create` returns it. The first poll comes when the backup has a fair chance of having ended, and
    further polls follow at shorter intervals.

    `step` is in seconds, at least 0.1. Polls are about one step apart or more, and fall on whole
    multiples of a step on the server's clock, so that many waiters share them. `chance` weighs
    requests against lag: the next poll is due when the delay until then, multiplied by the
    probability that the backup ends within it, reaches `chance` steps. A higher `chance` means
    fewer polls and more lag. `fallback` is the backoff to use until the history holds enough.

    `history` is the only state. Many waits may share one strategy; pickle it to keep what it
    learned. Raises `ValueError` for values out of range.
    """

    step: float = 30.0
    chance: float = 0.1
    fallback: Backoff = ExponentialBackoff(5.0, maximum=30.0)
    history: DurationHistory = field(factory=DurationHistory, eq=False)

    def __attrs_post_init__(self) -> None:
        if check_number("step", self.step) < _LEAST_STEP:
            raise ValueError(f"step must be at least {_LEAST_STEP} seconds, not {self.step!r}")
        check_number("chance", self.chance, unit="share")
        check_callable("fallback", self.fallback)

    def learn(self, backup: Backup, running: float, completed: float) -> None:
        """Add a completed backup to the history; a wait calls this by itself, see `Backoff`.

        `running` and `completed` are the times in seconds since the wait began at which the backup
        was last seen running and first seen completed. The duration is taken to be halfway between
        them. If they are more than a step apart and the history says what to expect of the server,
        it is the value between them that is closest to the expected median.
        """
        seconds = (running + completed) / 2
        if completed - running > self.step:
            # Halfway is too rough a guess here to correct what the history says.
            expected = self.history.expected(backup.server.id)
            middle = expected[len(expected) // 2] if expected else seconds
            seconds = min(max(middle, running), completed)
        self.history.add(backup.server.id, seconds, backup.size_mb)

    def __call__(self, attempt: Attempt, /) -> float:
        """The delay in seconds until the first time at which a poll is worth its request."""
        backup, elapsed = attempt.backup, attempt.elapsed
        expected = self.history.expected(None if backup is None else backup.server.id)
        if not expected:
            return self.fallback(attempt)
        remaining = expected[bisect_right(expected, elapsed) :]
        cases = len(remaining) + 1  # one more: it may take longer than any backup before
        # By the time `seconds`, the backup has ended in `ended` of these cases. The wanted delay is
        # the first for which delay * ended / cases reaches chance * step.
        threshold = self.chance * self.step * cases
        delay = min(
            (
                max(seconds - elapsed, threshold / ended)
                for ended, seconds in enumerate(remaining, 1)
            ),
            default=0.0,
        )
        delay = min(delay, max(0.0, expected[-1] - elapsed))
        clock = elapsed if backup is None else backup.created_at.timestamp() + elapsed
        return self._round_up(clock, delay)

    def _round_up(self, clock: float, delay: float) -> float:
        """The delay that ends at a whole multiple of the step; `clock` is the server's time (s)."""
        # At least 0.3 of a step away: sooner after a poll, the backup has hardly changed.
        steps = math.ceil(max((clock + delay) / self.step, clock / self.step + 0.3))
        return max(0.3 * self.step, self.step * steps - clock)


_LEAST_STEP: Final = 0.1
