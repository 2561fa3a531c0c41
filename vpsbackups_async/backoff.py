"""How long to wait before the next try: the `Backoff` protocol and three stateless strategies."""

import random
import sys
from typing import Protocol

from attrs import frozen

from vpsbackups_async._checks import check_number
from vpsbackups_async.models import Backup

__all__ = [
    "Attempt",
    "Backoff",
    "ConstantBackoff",
    "DecorrelatedJitterBackoff",
    "ExponentialBackoff",
    "delay_of",
]


@frozen
class Attempt:
    """What a `Backoff` may know about the wait that it is asked for.

    `number` counts from 1: the first delay comes before the first look at a backup, or after the
    first failed attempt of a request. `elapsed` is the time since the beginning, in seconds.
    `previous_delay` is what the strategy answered last, in seconds, None the first time. `backup`
    is the backup as it was last seen, None if it was not seen yet or there is none.
    """

    number: int
    elapsed: float = 0.0
    previous_delay: float | None = None
    backup: Backup | None = None


class Backoff(Protocol):
    """Any callable that answers an `Attempt` with a delay in seconds, zero or more."""

    def __call__(self, attempt: Attempt, /) -> float:
        """The delay in seconds before the next try."""
        ...


def delay_of(backoff: Backoff, attempt: Attempt) -> float:
    """The strategy's delay in seconds.

    Raises `ValueError` naming the strategy if it answers anything but a finite number >= 0.
    """
    return float(
        check_number(f"the answer of {backoff!r} to attempt {attempt.number}", backoff(attempt))
    )


@frozen
class ConstantBackoff:
    """The same delay every time, in seconds."""

    delay: float

    def __attrs_post_init__(self) -> None:
        check_number("delay", self.delay)

    def __call__(self, _: Attempt, /) -> float:
        """The delay, whatever the attempt."""
        return self.delay


@frozen
class ExponentialBackoff:
    """`first` seconds, then `factor` times as much each time, up to `maximum` seconds.

    `jitter` is the share of each delay that is left to chance, 0 to 1: with 0.5 a delay of 8
    seconds becomes anything from 4 to 8.
    """

    first: float = 1.0
    factor: float = 2.0
    maximum: float = 60.0
    jitter: float = 0.0

    def __attrs_post_init__(self) -> None:
        check_number("first", self.first)
        check_number("maximum", self.maximum)
        if check_number("factor", self.factor, unit="number") < 1:
            raise ValueError(f"factor must be at least 1, not {self.factor!r}")
        if check_number("jitter", self.jitter, unit="share") > 1:
            raise ValueError(f"jitter must be a share from 0 to 1, not {self.jitter!r}")

    def __call__(self, attempt: Attempt, /) -> float:
        """The delay for this attempt; never above `maximum`."""
        try:
            power = float(self.factor) ** (attempt.number - 1)
        except OverflowError:
            power = sys.float_info.max
        delay = min(self.maximum, self.first * power)
        if self.jitter:
            delay -= delay * self.jitter * random.random()
        return delay


@frozen
class DecorrelatedJitterBackoff:
    """A delay by chance between `first` and three times the previous one, up to `maximum` seconds.

    It spreads many callers that failed at the same moment better than a jittered power does; see
    "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    first: float = 1.0
    maximum: float = 60.0

    def __attrs_post_init__(self) -> None:
        check_number("first", self.first)
        check_number("maximum", self.maximum)
        if self.maximum < self.first:
            raise ValueError(f"maximum {self.maximum!r} is below first {self.first!r}")

    def __call__(self, attempt: Attempt, /) -> float:
        """The delay after `attempt.previous_delay`; never above `maximum`."""
        previous = self.first if attempt.previous_delay is None else attempt.previous_delay
        upper = max(self.first, min(self.maximum, previous * 3))
        return min(self.maximum, random.uniform(self.first, upper))  # which may round up
