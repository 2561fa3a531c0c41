"""A backoff that learns how long the backups of each server take."""

import math
from bisect import bisect_right
from typing import Final, Self

import msgspec
from attrs import field, frozen

from vpsbackups_async._checks import check_callable, check_number
from vpsbackups_async._durations import DurationHistory, read_json
from vpsbackups_async.backoff import Attempt, Backoff, ExponentialBackoff
from vpsbackups_async.models import Backup

__all__ = ["LearnedBackoff"]

_LEAST_STEP: Final = 0.1
_FALLBACK: Final = ExponentialBackoff(5.0, maximum=30.0)
_STRETCH: Final = 0.5
"""A poll that comes later than its delay by more than this fraction of it was held up."""
_GAP: Final = 0.2
"""Among the expected durations, the longest delay between two polls as a fraction of the time."""


class _StoredBackoff(msgspec.Struct):
    """A `LearnedBackoff` as JSON holds it."""

    step: float
    chance: float
    history: msgspec.Raw


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

    `history` is the only state. Many waits may share one strategy; `to_json` and pickle keep what
    it learned. Raises `ValueError` for values out of range.
    """

    step: float = 30.0
    chance: float = 0.1
    fallback: Backoff = _FALLBACK
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

        If no poll saw the backup running, and the first one came when it was due, that poll was too
        late to tell the duration; see `DurationHistory.add_late`. If a poll was due between the two
        times, it failed or was held up, and the backup teaches nothing.
        """
        server_id, apart = backup.server.id, completed - running
        if apart <= self.step:
            self.history.add(server_id, (running + completed) / 2, backup.size_mb)
        elif running == 0:
            first = self(Attempt(1, backup=backup))
            if completed <= first + _STRETCH * first + self.step:
                self.history.add_late(server_id, completed, backup.size_mb)
        elif apart <= self.step + running:
            # Halfway is too rough a guess here to correct what the history says.
            expected = self.history.expected(server_id)
            middle = expected[len(expected) // 2] if expected else (running + completed) / 2
            self.history.add(server_id, min(max(middle, running), completed), backup.size_mb)

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
        if len(remaining) < len(expected):
            # It took longer than some of them, and may end long before the next of them.
            delay = min(delay, max(self.step, _GAP * elapsed))
        clock = elapsed if backup is None else backup.created_at.timestamp() + elapsed
        return self._round_up(clock, delay)

    def to_json(self) -> bytes:
        """The step, the chance and the history as JSON, to keep for the next run.

        `from_json` reads it back. The fallback is code, so it is not part of it.
        """
        history = msgspec.Raw(self.history.to_json())
        return msgspec.json.encode(_StoredBackoff(self.step, self.chance, history))

    @classmethod
    def from_json(cls, text: bytes | str, *, fallback: Backoff = _FALLBACK) -> Self:
        """The backoff that `to_json` wrote, with this fallback.

        Raises `ValueError`, which says what is wrong with it, for any other text.
        """
        stored = read_json(cls, text, _StoredBackoff)
        history = DurationHistory.from_json(bytes(stored.history))
        return cls(stored.step, stored.chance, fallback, history)

    def _round_up(self, clock: float, delay: float) -> float:
        """The delay that ends at a whole multiple of the step; `clock` is the server's time (s)."""
        # At least 0.3 of a step away: sooner after a poll, the backup has hardly changed.
        steps = math.ceil(max((clock + delay) / self.step, clock / self.step + 0.3))
        return max(0.3 * self.step, self.step * steps - clock)
