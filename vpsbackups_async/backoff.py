"""How long to wait before the next attempt: the `Backoff` protocol and three stateless strategies.

A backoff is used between the polls of a wait and between the attempts of a request.
"""

import random
import sys
from typing import Protocol

from attrs import frozen

from vpsbackups_async._checks import check_number
from vpsbackups_async._values import Value
from vpsbackups_async.models import Backup

__all__ = [
    "Attempt",
    "Backoff",
    "ConstantBackoff",
    "DecorrelatedJitterBackoff",
    "ExponentialBackoff",
    "delay_of",
]


@frozen(eq=False, repr=False)
class Attempt(Value):
    """What a `Backoff` is told when it is asked for the next delay.

    `number` counts from 1: the first delay precedes the first poll of a wait, or follows the first
    failed attempt of a request. `elapsed` is the time in seconds since the wait or the call began.
    `previous_delay` is the delay in seconds that the strategy returned last, None the first time.
    `backup` is the backup as it was last seen; None if it has not been seen yet, and for requests.
    """

    number: int
    elapsed: float = 0.0
    previous_delay: float | None = None
    backup: Backup | None = None


class Backoff(Protocol):
    """Any callable that takes an `Attempt` and returns a delay in seconds, zero or more.

    A strategy may also have a method `learn(backup, running, completed)`. It is not part of the
    protocol, so a plain function is a backoff too. A wait that begins with the backup `in_progress`
    calls it once, when the backup is completed:

    - `backup` is the completed `Backup`;
    - `running` is the time in seconds since the wait began at which the backup was last seen
      running, 0 if no poll saw it running;
    - `completed` is the time in seconds since the wait began at which it was seen completed.

    A wait that began with a `BackupRef` or another status, or that ends with an error, does not
    call it. It is called in the event loop: it must return promptly and must not raise.
    `LearnedBackoff` is a strategy with this method.
    """

    def __call__(self, attempt: Attempt, /) -> float:
        """The delay in seconds before the next attempt."""
        ...


def delay_of(backoff: Backoff, attempt: Attempt) -> float:
    """The delay in seconds that the strategy returns for this attempt.

    Raises `ValueError`, which names the strategy, if it returns anything but a finite number of
    zero or more.
    """
    return float(
        check_number(f"the answer of {backoff!r} to attempt {attempt.number}", backoff(attempt))
    )


@frozen(eq=False, repr=False)
class ConstantBackoff(Value):
    """A backoff that always returns the same delay.

    `delay` is in seconds. Raises `ValueError` unless it is a finite number of zero or more.
    """

    delay: float

    def __attrs_post_init__(self) -> None:
        check_number("delay", self.delay)

    def __call__(self, _: Attempt, /) -> float:
        """The constant delay in seconds."""
        return self.delay


@frozen(eq=False, repr=False)
class ExponentialBackoff(Value):
    """A backoff whose delays grow by a constant factor up to a maximum.

    The first delay is `first` seconds, and each further one is `factor` times as long, up to
    `maximum` seconds. `jitter` is the fraction of each delay that is random, from 0 to 1: with 0.5,
    a delay of 8 seconds becomes a random one between 4 and 8 seconds.

    Raises `ValueError` if `first` or `maximum` is negative, `factor` is below 1, `jitter` is not
    between 0 and 1, or any of them is not a finite number.
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
        """The delay in seconds for this attempt; never above `maximum`."""
        try:
            power = float(self.factor) ** (attempt.number - 1)
        except OverflowError:
            power = sys.float_info.max
        delay = min(self.maximum, self.first * power)
        if self.jitter:
            delay -= delay * self.jitter * random.random()
        return delay


@frozen(eq=False, repr=False)
class DecorrelatedJitterBackoff(Value):
    """A backoff with random delays between `first` and three times the previous delay.

    `first` and `maximum`, which no delay exceeds, are in seconds. It spreads callers that failed at
    the same moment better than an exponential backoff with jitter does; see "Exponential Backoff
    And Jitter", AWS Architecture Blog, 2015.

    Raises `ValueError` if either is negative or not a finite number, or `maximum` is below `first`.
    """

    first: float = 1.0
    maximum: float = 60.0

    def __attrs_post_init__(self) -> None:
        check_number("first", self.first)
        check_number("maximum", self.maximum)
        if self.maximum < self.first:
            raise ValueError(f"maximum {self.maximum!r} is below first {self.first!r}")

    def __call__(self, attempt: Attempt, /) -> float:
        """The delay in seconds after `attempt.previous_delay`; never above `maximum`."""
        previous = self.first if attempt.previous_delay is None else attempt.previous_delay
        upper = max(self.first, min(self.maximum, previous * 3))
        return min(self.maximum, random.uniform(self.first, upper))  # uniform may round up
