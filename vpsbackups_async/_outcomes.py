"""How the work of a bulk job ends for each item, and how far the job has got."""

from typing import Any, Generic, TypeVar, cast

from attrs import field, frozen

from vpsbackups_async._values import Value

__all__ = ["Outcome", "Progress"]

K = TypeVar("K")
V = TypeVar("V")


@frozen
class Outcome(Generic[K, V]):
    """How the work on one item of a bulk job ended.

    `key` is the item. `value` is the result of the work, None if the work failed; `error` is then
    the exception. The type of `value` is that after `if outcome.ok:`, as type checkers do not all
    narrow an attribute by another one, so look at `ok` or `error` first.
    """

    key: K
    value: V = field(default=cast("Any", None))
    error: Exception | None = None

    @property
    def ok(self) -> bool:
        """Whether the work succeeded."""
        return self.error is None

    def unwrap(self) -> V:
        """The value; raises `error` if the work failed."""
        if self.error is not None:
            raise self.error
        return self.value


@frozen(eq=False, repr=False)
class Progress(Value):
    """How far a bulk job has got, in items.

    `done` is the number of items that ended, `ok` and `failed` how many of them succeeded and
    failed; items that were not attempted count as failed. `running` is the number of items being
    worked on. `total` is the number of all items, None if the input has no length. `elapsed` is the
    time since the job began, in seconds.
    """

    done: int
    ok: int
    failed: int
    running: int
    total: int | None
    elapsed: float

    @property
    def rate(self) -> float:
        """Items done per second so far, on average; 0 at the very beginning."""
        return self.done / self.elapsed if self.elapsed > 0 else 0.0

    @property
    def remaining(self) -> float | None:
        """Seconds to the end at this rate; None if the total or the rate is not known."""
        if self.total is None:
            return None
        left = max(0, self.total - self.done)
        if not left:
            return 0.0
        return left / self.rate if self.rate else None
