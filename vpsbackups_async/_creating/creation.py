"""One call of `create`, with all of its requests."""

import asyncio
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from vpsbackups_async._creating.evidence import SentCreate, clock_offset
from vpsbackups_async._creating.looks import Look
from vpsbackups_async._transport.calls import SendState
from vpsbackups_async._wire import Request
from vpsbackups_async.errors import CreateOutcomeUnknownError
from vpsbackups_async.models import Backup

__all__ = ["Creation", "IfRunning"]

IfRunning = Literal["raise", "wait", "adopt"]


class Creation:
    """One call of `create`, with all of its requests.

    `description` is sent with its tags. `known_ids` and `read_before` are those of `SentCreate`.
    `sought` is whether a backup with the `marker` may be there from before. `unanswered` is whether
    the server may have carried out one of the `posts` requests; `pause` is the last pause before
    one, in seconds. The call waits for other backups until `wait_until`; a try of it begins at
    `began` and ends by `end`, in loop time. `longest` is how many seconds the client waits for it
    when it is closed.
    """

    def __init__(
        self,
        request: Request,
        server_id: int,
        description: str,
        if_running: IfRunning,
        marker: str | None,
        *,
        sought: bool,
    ) -> None:
        self.request = request
        self.server_id = server_id
        self.description = description
        self.if_running = if_running
        self.marker = marker
        self.sought = sought
        self.wait_until = math.inf  # for the ends of other backups
        self.longest = math.inf
        self.sending = SendState()
        self.known_ids: frozenset[int] = frozenset()
        self.read_before = False
        self.unanswered = False
        self.posts = 0
        self.pause: float | None = None
        self.began = self.end = 0.0
        self._utc = datetime.now(UTC)
        self._at = asyncio.get_running_loop().time()
        self._offset: float | None = None
        self._offset_seen = 0.0

    @property
    def is_committed(self) -> bool:
        """Whether the server may be making the backup, or have made it."""
        return self.sending.on_the_wire or self.unanswered

    def begin(self, now: float, seconds: float) -> None:
        """Begin a try of so many seconds, also after an earlier one was refused."""
        self.began, self.end = now, now + seconds
        self.posts, self.pause = 0, None
        self.sending.began.clear()

    def sent(self, look: Look | None = None) -> SentCreate:
        """The create as it is known now, with the server's clock by this look."""
        if look is not None:
            offset = clock_offset(look.server_time, self._utc_of(look.at))
            if offset is not None:
                self._offset, self._offset_seen = offset, look.at
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
