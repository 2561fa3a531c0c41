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

_ENOUGH: Final = 5
"""So many durations speak for themselves."""
_AROUND: Final = (0.8, 0.87, 0.93, 0.97, 1.0, 1.03, 1.07, 1.15, 1.25)
"""What a duration known from fewer backups stands for."""


@define
class DurationHistory:
    """How long recent backups took, in seconds, with their sizes in MB as the API counts them.

    It keeps the last `per_server` of each of the last `servers` servers, and `overall` by chance
    out of all. (The last ones would not do: those of one night end with its longest backups.)
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
        """Remember one backup."""
        check_number("seconds", seconds)
        own = self._by_server.pop(server_id, ())
        self._by_server[server_id] = (*own, (seconds, size_mb))[-self.per_server :]
        if len(self._by_server) > self.servers:
            del self._by_server[next(iter(self._by_server))]
        self._added += 1
        if len(self._sample) == self.overall:
            if random.random() * self._added >= self.overall:
                return
            del self._sample[random.randrange(self.overall)]
        insort(self._sample, seconds)

    def of_server(self, server_id: int) -> list[tuple[float, int | None]]:
        """The durations and sizes of a server's last backups, oldest first."""
        return list(self._by_server.get(server_id, ()))

    def expected(self, server_id: int | None) -> Sequence[float]:
        """Durations to expect of a server, shortest first: its own, else those of all; or none."""
        own = () if server_id is None else self._by_server.get(server_id, ())
        if not own:
            return self._sample if len(self._sample) >= _ENOUGH else ()
        seconds = sorted(taken for taken, _ in own)
        if len(own) >= _ENOUGH:
            return seconds
        middle = seconds[len(seconds) // 2]
        return [middle * share for share in _AROUND]


@frozen
class LearnedBackoff:
    """Looks when backups of this server, or of all servers, usually end.

    A wait that begins with the backup `in_progress`, as `create` gives it, teaches how long the
    backup took. The first look comes when there is a fair chance that the backup has ended, and the
    further ones close in. Looks are about `step` seconds apart at the least, and fall on whole
    multiples of it on the server's clock, so that many waiters share them. `chance` weighs requests
    against lag: a look waits until its delay times the chance that the backup ended meanwhile
    reaches that share of a step; more of it means fewer looks. Until enough is known, `fallback`
    decides.

    The strategy itself holds no state but its `history`, which many waits may share; pickle it to
    keep what was learned.
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
        """Take in that a backup still ran after so many seconds, and was completed after so many.

        A wait does this by itself.
        """
        seconds = (running + completed) / 2
        if completed - running > self.step:  # too vague to correct what is known already
            expected = self.history.expected(backup.server.id)
            middle = expected[len(expected) // 2] if expected else seconds
            seconds = min(max(middle, running), completed)
        self.history.add(backup.server.id, seconds, backup.size_mb)

    def __call__(self, attempt: Attempt, /) -> float:
        """The delay until the first moment at which a look is worth its request, in seconds."""
        backup, elapsed = attempt.backup, attempt.elapsed
        expected = self.history.expected(None if backup is None else backup.server.id)
        if not expected:
            return self.fallback(attempt)
        over = bisect_right(expected, elapsed)
        still = len(expected) - over + 1  # one for those that take longer than any before
        worth = self.chance * self.step * still
        delay = min(
            (
                max(seconds - elapsed, worth / ended)
                for ended, seconds in enumerate(expected[over:], 1)
            ),
            default=0.0,
        )
        delay = min(delay, max(0.0, expected[-1] - elapsed))
        clock = elapsed if backup is None else backup.created_at.timestamp() + elapsed
        return self._to_a_whole_step(clock, delay)

    def _to_a_whole_step(self, clock: float, delay: float) -> float:
        # Not a moment that is all but here: what was looked at just before it has hardly changed.
        steps = math.ceil(max((clock + delay) / self.step, clock / self.step + 0.3))
        return max(0.3 * self.step, self.step * steps - clock)


_LEAST_STEP: Final = 0.1
