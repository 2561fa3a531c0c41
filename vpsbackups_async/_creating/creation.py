"""One call of `create`, with all of its requests."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Literal

from vpsbackups_async._creating.ensuring import Need, order_made
from vpsbackups_async._creating.evidence import SentCreate, Verdict, clock_offset
from vpsbackups_async._creating.looks import Look
from vpsbackups_async._tags import with_labels, with_marker
from vpsbackups_async._transport.calls import SendState
from vpsbackups_async._wire import API_ROOT, create_request
from vpsbackups_async.errors import (
    CreateOutcomeUnknownError,
    DeadlineExceededError,
    VPSBackupsError,
)
from vpsbackups_async.models import Backup

__all__ = ["Creation", "IfRunning", "check_if_running", "first_of", "late"]

logger = logging.getLogger("vpsbackups_async")

IfRunning = Literal["raise", "wait", "adopt"]


def check_if_running(value: object) -> None:
    """Raise `ValueError` unless the value says what to do about a running backup."""
    if value not in {"raise", "wait", "adopt"}:
        raise ValueError(f"if_running must be 'raise', 'wait' or 'adopt', not {value!r}")


class Creation:
    """One call of `create` or `ensure`, with all of its requests.

    `description` is sent with its tags. `known_ids` and `read_before` are those of `SentCreate`.
    `sought` is whether a backup with the `marker` may be there from before, `reads` whether the
    server's backups are to be read first in any case; `need` is what `ensure` asks for, at `now` by
    the server's clock. `doubt` is the last failure after which the server may have carried out the
    request all the same. `unanswered` is whether it may be doing so after one of the `posts`
    requests, which the words of a 503 deny, and `looks_after` whether its backup is looked for
    then; `before_again` is awaited before a request that follows another one. `made` is whether its
    backup is known and is being given to the caller; `pause` is the last pause before a request, in
    seconds. `paced` counts the refusals for pace, which cost no attempt; `accepted` is the
    session's count of creates without overload when the last request was sent. The call waits for
    other backups until `wait_until`; a try of it begins at `began` and ends by `end`, in loop time.
    `longest` is how many seconds the client waits for it when it is closed. `preparing` is the
    timeout of what precedes a request, while that runs.
    """

    def __init__(
        self,
        server_id: int,
        description: str | None,
        if_running: IfRunning = "raise",
        need: Need | None = None,
    ) -> None:
        self.request = create_request(server_id, description)
        self.server_id = server_id
        self.description = description or ""
        self.if_running = if_running
        self.need = need
        self.marker: str | None = None
        self.sought = need is not None
        self.reads = False
        self.wait_until = math.inf  # for the ends of other backups
        self.longest = math.inf
        self.sending = SendState()
        self.preparing: asyncio.Timeout | None = None
        self.known_ids: frozenset[int] = frozenset()
        self.read_before = False
        self.doubt: VPSBackupsError | None = None
        self.unanswered = False
        self.looks_after = True
        self.before_again: Callable[[], Awaitable[object]] | None = None
        self.made = False
        self.posts = self.paced = self.accepted = 0
        self.pause: float | None = None
        self.began = self.end = 0.0
        self._utc = self.now = datetime.now(UTC)
        self._at = asyncio.get_running_loop().time()
        self._offset: float | None = None
        self._offset_seen = 0.0

    @property
    def is_committed(self) -> bool:
        """Whether the server may be making the backup, or have made it."""
        return self.sending.on_the_wire > 0 or self.unanswered or self.made

    @property
    def attempts(self) -> int:
        """How often the request was sent in this try of the call."""
        return len(self.sending.began)

    def label(self, keep: bool | date | None, job: str | None) -> None:
        """Ask for a backup with these labels; raises `ValueError` if that is not possible."""
        self._describe(with_labels(self.description, keep=keep, job=job))

    def mark(self, marker: str) -> None:
        """Ask for a backup with this marker, in place of any other."""
        self.marker = marker
        self._describe(with_marker(self.description, marker))

    def _describe(self, description: str) -> None:
        if description != self.description:
            self.description = description
            self.request = create_request(self.server_id, description)

    def begin(self, now: float, seconds: float) -> None:
        """Begin a try of so many seconds, also after an earlier one was refused."""
        self.began, self.end = now, now + seconds
        self.posts = self.paced = 0
        self.pause = None
        self.sending.began.clear()

    def see(self, look: Look) -> None:
        """Note the server's time by a look; where none tells, it is taken to be ours."""
        ours = self._utc_of(look.at)
        offset = clock_offset(look.server_time, ours)
        if offset is not None:
            self._offset, self._offset_seen = offset, look.at
        self.now = ours + timedelta(seconds=self._offset or 0.0)

    def answer(self, verdict: Verdict) -> Backup | None:
        """The backup that the create made, by this verdict; None if that is not known.

        Where several calls ask for the same, each may be given what another one made.
        """
        if not self.sought or not verdict.several or not verdict.certain:
            return verdict.answer
        if self.need is not None:
            return verdict.certain[0]  # one more look finds the first of them
        return first_of(self.server_id, verdict.certain)

    def sent(self, look: Look | None = None) -> SentCreate:
        """The create as it is known now, with the server's clock by this look."""
        if look is not None:
            self.see(look)
        return SentCreate(
            self.server_id,
            self.description,
            self.marker,
            self.known_ids,
            self.read_before,
            tuple(map(self._utc_of, self.sending.began)),
            self._offset,
        )

    def unknown(self, candidates: Sequence[Backup], reason: str) -> CreateOutcomeUnknownError:
        """The error to raise if the outcome cannot be known."""
        sent = self.sent()
        age = None
        if self._offset is not None:
            age = asyncio.get_running_loop().time() - self._offset_seen
        return CreateOutcomeUnknownError(
            candidates,
            self.server_id,
            self.description,
            reason,
            self.known_ids,
            self.marker,
            sent.sent_at,
            self.read_before,
            self._offset,
            age,
        )

    def _utc_of(self, at: float) -> datetime:
        """The time by this machine's clock at a loop time; steady if that clock is set anew."""
        return self._utc + timedelta(seconds=at - self._at)


def first_of(server_id: int, backups: Iterable[Backup]) -> Backup:
    """The backup that was made first, which every caller is given; the others are logged."""
    first, *others = sorted(backups, key=order_made)
    if others:
        logger.warning(
            "server %s has several backups where one was asked for: %s; the first is taken, delete "
            "the others if they are not needed",
            server_id,
            [first.id, *(backup.id for backup in others)],
        )
    return first


def late(creation: Creation, where: str) -> DeadlineExceededError:
    """The error that its time passed before anything was sent."""
    request = creation.request
    words = f"the time for this create passed {where}"
    return DeadlineExceededError(words, False, request.method, API_ROOT + request.path)
