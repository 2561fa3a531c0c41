"""Sends one create, and finds out what became of it."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final

from vpsbackups_async import _events, _wire
from vpsbackups_async._creating.creation import Creation
from vpsbackups_async._creating.evidence import SentCreate, clock_offset, judge
from vpsbackups_async._creating.known import KnownBackups
from vpsbackups_async._creating.looks import Look, Looks
from vpsbackups_async._creating.settling import (
    Search,
    is_not_handled,
    may_create_again,
    search,
    told,
)
from vpsbackups_async._creating.tags import warn_of_lost_tags
from vpsbackups_async._creating.twins import first_of_twins, warn_of_twins
from vpsbackups_async._transport.attempts import is_ambiguous, without_budget
from vpsbackups_async._transport.retry import RetryPolicy, asked_pause
from vpsbackups_async._transport.transport import Transport
from vpsbackups_async._transport.waits import closed_error
from vpsbackups_async.backoff import Attempt
from vpsbackups_async.errors import (
    ApiError,
    CreateOutcomeUnknownError,
    InvalidResponseError,
    VPSBackupsError,
)
from vpsbackups_async.models import Backup

__all__ = ["Maker"]

logger = logging.getLogger("vpsbackups_async")

_FREE_REFUSALS: Final = 10
"""How many refusals for pace cost a create neither an attempt nor budget."""


class Maker:
    """Sends the creates of one client, and finds the backups of those without an answer.

    `looks` looks at the lists; what that shows, and what creates were given, is noted in `known`.
    """

    def __init__(
        self, transport: Transport, looks: Looks, retry: RetryPolicy, known: KnownBackups
    ) -> None:
        self._transport = transport
        self._looks = looks
        self._retry = retry
        self._known = known

    async def make(self, creation: Creation) -> Backup:
        """Send the create until its outcome is known; no other one may run on the server.

        It ends by `creation.end`, or `create_again_after` later where that is asked for.
        """
        creation.end += self._again_after
        creation.known_ids |= self._known.listed(creation.server_id)
        while True:
            try:
                made = await self._send(creation)
            except Exception as error:
                if not (creation.unanswered or isinstance(error, VPSBackupsError)):
                    raise
                failure = told(error)
                found = await self._after(creation, failure)
                if found is not None:
                    if not creation.sought:  # that may be another caller's, with its own labels
                        warn_of_lost_tags(creation, found)
                    return await self._given(creation, found)
                if creation.before_again is not None:
                    await creation.before_again()
                self._transport.note_retry(creation.request, creation.attempts, failure, 0.0)
            else:
                self._known.asked.note(made, creation.description)
                warn_of_lost_tags(creation, made)
                if creation.unanswered and creation.need is None:
                    await warn_of_twins(creation, made, self._looks, self._known.is_given)
                return await self._given(creation, made)

    async def _given(self, creation: Creation, made: Backup) -> Backup:
        """The backup, or for `ensure` the first of those that were made in the same moment."""
        self._known.give(made, creation.marker)
        creation.made = True
        if creation.need is None:
            return made
        grace = self._retry.create_grace
        first = await first_of_twins(creation, creation.need, made, self._looks, grace=grace)
        return self._known.give(first, creation.marker)

    @property
    def _again_after(self) -> float:
        return self._retry.create_again_after or 0.0

    async def _send(self, creation: Creation) -> Backup:
        """Send the create once; not after the client was closed or the caller cancelled."""
        if creation.sending.no_more_attempts:
            raise closed_error()
        creation.posts += 1
        creation.accepted = self._transport.session.accepted_of[creation.request.kind]
        reply = await self._transport.send(
            creation.request,
            creation.sending,
            deadline=creation.end,
            earlier=creation.attempts,
        )
        made = _wire.read_backup(reply)
        if made.server.id != creation.server_id or self._known.is_given(made.id):
            raise reply.invalid(f"it is about backup {made.id} of server {made.server.id}", "id")
        return made

    async def _after(self, creation: Creation, failure: VPSBackupsError) -> Backup | None:
        """What follows from a failure: the backup after all, None to send again, or an error."""
        if failure.in_doubt:
            creation.doubt = failure
        if not creation.unanswered:
            if is_not_handled(failure):
                return await self._after_not_handled(creation, failure)
            if not (is_ambiguous(failure) or isinstance(failure, InvalidResponseError)):
                raise await self._looks.recognised(failure, creation.server_id)
            creation.unanswered = True
        return await self._after_no_answer(creation, failure)

    # --- A 503: it was not handled ---------------------------------------------------------------

    async def _after_not_handled(
        self, creation: Creation, failure: VPSBackupsError
    ) -> Backup | None:
        """Look once after the pause; None to send again, where that shows nothing."""
        if self._retry.attempts == 1:
            raise failure
        pause = self._pause(creation, failure)
        if pause is not None:
            await self._transport.pause(pause)
        try:
            async with asyncio.timeout_at(creation.end):
                look = await self._looks.look(creation.server_id)
        except Exception:  # noqa: BLE001  # also what the caller's limiter raises
            raise failure from None
        found = Search()
        verdict = judge(creation.sent(look), look.backups, self._known.is_given)
        found.take(verdict, complete=look.complete)
        if answer := creation.answer(verdict):
            return self.found(answer, certain=bool(verdict.certain))
        if found.candidates:
            reason = f"{failure.describe()}; {found.reason}"
            raise creation.unknown(found.candidates, reason) from failure
        if pause is None or not look.complete:
            raise failure
        return None

    def _pause(self, creation: Creation, failure: VPSBackupsError) -> float | None:
        """The seconds before the create is sent again; None if it is not."""
        free = creation.paced < _FREE_REFUSALS and self._transport.is_for_pace(
            failure, creation.request, creation.accepted
        )
        creation.paced += free
        if creation.sending.no_more_attempts:
            return None
        if creation.posts - creation.paced >= self._retry.attempts:
            return None
        asked = asked_pause(failure) or 0.0
        now = asyncio.get_running_loop().time()
        attempt = Attempt(creation.posts, now - creation.began, creation.pause)
        creation.pause = pause = self._retry.pause(failure, attempt)
        if asked > self._retry.max_retry_after or now + pause > creation.end:
            return None
        return pause if free or self._has_budget(failure) else None

    def _has_budget(self, failure: VPSBackupsError) -> bool:
        if self._transport.budget.spend():
            return True
        without_budget(failure)
        return False

    # --- No answer: it may have been carried out -------------------------------------------------

    async def _after_no_answer(self, creation: Creation, failure: VPSBackupsError) -> Backup | None:
        """Look for the backup; None to send again, where that was asked for and none can be there.

        Raises `CreateOutcomeUnknownError`, or a later refusal where nothing was made before it.
        """
        if self._retry.attempts == 1 or not creation.looks_after:
            raise creation.unknown((), failure.describe()) from failure
        logger.debug("looking for the backup of a create without an answer: %s", failure)
        found = await self._search(creation)
        if answer := creation.answer(found.verdict):
            return self.found(answer, certain=bool(found.verdict.certain))
        if found.certainly_nothing and not creation.sending.no_more_attempts:
            if isinstance(failure, ApiError) and failure.status < 500 and failure.status != 408:
                creation.unanswered = False
                raise await self._looks.recognised(failure, creation.server_id)
            if self._may_create_again(creation, failure):
                return None
        reason = f"{failure.describe()}; {found.reason}"
        raise creation.unknown(found.candidates, reason) from failure

    def _may_create_again(self, creation: Creation, failure: VPSBackupsError) -> bool:
        return (
            self._retry.create_again_after is not None
            and creation.posts < self._retry.attempts
            and may_create_again(failure)
            and self._has_budget(failure)
        )

    async def _search(self, creation: Creation) -> Search:
        """What looks at the server tell, for as long as the retry policy says."""
        found = Search()

        def take(look: Look) -> bool:
            verdict = judge(creation.sent(look), look.backups, self._known.is_given)
            found.take(verdict, complete=look.complete)
            return verdict.several or verdict.answer is not None

        look = partial(self._looks.look, creation.server_id)
        grace = max(self._retry.create_grace, self._again_after)
        await search(found, look, take, grace=grace, end=creation.end)
        return found

    def found(self, backup: Backup, *, certain: bool) -> Backup:
        """The backup, noted in the log and told as an event; with how sure that is."""
        if certain:
            logger.info("found backup %s, whose create had no answer", backup.id)
        else:
            logger.info(
                "backup %s of server %s is taken for that of a create without an answer: it has "
                "the same description, and was created within ten minutes",
                backup.id,
                backup.server.id,
            )
        self._tell_settled(backup, certain=certain)
        return backup

    def _tell_settled(self, backup: Backup, *, certain: bool) -> None:
        emit = self._transport.session.monitor.emit
        if emit is not None:
            emit(_events.CreateSettled(backup.server.id, backup, certain))

    async def settle(self, error: CreateOutcomeUnknownError, server_id: int) -> Backup:
        """The backup of a create that failed so, by one look now; raises the error anew."""
        known = self._known
        sent = SentCreate(
            server_id,
            error.description or "",
            error.marker,
            error.known_ids,
            error.read_before,
            error.sent_at,
            error.clock_offset,
        )
        try:
            look = await self._looks.look(server_id)
        except VPSBackupsError as failure:
            reason = f"looking at the server's backups failed: {failure.describe()}"
            raise _again(error, error.candidates, reason) from failure
        before = known.settled(sent)
        given = [backup for backup in look.backups if backup.id == before]
        offset = sent.clock_offset
        if offset is None:
            offset = clock_offset(look.server_time, datetime.now(UTC))
        found = Search()
        verdict = judge(sent._replace(clock_offset=offset), look.backups, known.is_given)
        found.take(verdict, complete=look.complete)
        answer = given[0] if given else verdict.answer
        if answer is None:
            raise _again(error, found.candidates, found.reason)
        known.settle(sent, answer)
        self._tell_settled(answer, certain=bool(given or verdict.certain))
        return known.give(answer, error.marker)


def _again(
    error: CreateOutcomeUnknownError, candidates: Sequence[Backup], reason: str
) -> CreateOutcomeUnknownError:
    """The error with what is known now."""
    return CreateOutcomeUnknownError(
        candidates, error.server_id, error.description, reason, *error.args[4:]
    )
