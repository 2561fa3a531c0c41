"""The loop of a call: wait for a turn, send, and do what the rules say follows."""

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from vpsbackups_async._transport.adaptive import AdaptiveLimiter
from vpsbackups_async._transport.attempts import (
    Done,
    Fail,
    Rules,
    SendAgain,
    without_budget,
)
from vpsbackups_async._transport.calls import (
    BeforeAgain,
    Call,
    OnRetry,
    SendState,
    Situation,
    is_for_pace,
)
from vpsbackups_async._transport.deadlines import Deadlines
from vpsbackups_async._transport.exchange import Exchange
from vpsbackups_async._transport.failures import doubt
from vpsbackups_async._transport.limiter import Observation
from vpsbackups_async._transport.opening import timeout_of
from vpsbackups_async._transport.retry import RetryBudget, RetryPolicy
from vpsbackups_async._transport.session import Session
from vpsbackups_async._transport.telemetry import call_span, is_traced
from vpsbackups_async._transport.timeouts import Timeouts
from vpsbackups_async._wire import API_ROOT, Request, Response
from vpsbackups_async.errors import DeadlineExceededError, VPSBackupsError

__all__ = ["Transport"]

_MORE_THAN_A_PAUSE: Final = 60.0
_LONG_IN_LINE: Final = 5.0


class Transport:
    """Sends requests through a session, with these timeouts and retries.

    Several transports may share a session. Their retries come from `budget`, by default the
    session's. `timeouts.keepalive` and `retry.budget` are the session's and have no effect here.
    One that `settles` creates sends until the connections are closed, also while the session
    refuses calls.
    """

    def __init__(
        self,
        session: Session,
        timeouts: Timeouts,
        retry: RetryPolicy,
        budget: RetryBudget | None = None,
        *,
        settles: bool = False,
    ) -> None:
        self.session = session
        self.timeouts = timeouts
        self.budget = session.budget if budget is None else budget
        self._retry = retry
        self._settles = settles
        self._rules = Rules(timeouts, retry, session.mask, session.plain_proxy)
        self._connect = timeout_of(timeouts.connect)

    def __repr__(self) -> str:
        return f"<Transport to {self.session.root}>"

    def send(
        self,
        request: Request,
        state: SendState | None = None,
        *,
        deadline: float | None = None,
        on_retry: OnRetry | None = None,
        earlier: int = 0,
        before_again: BeforeAgain | None = None,
    ) -> Coroutine[Any, Any, Response]:
        """The answer, which is 2xx and whole, or a success by its status alone.

        `deadline` is loop time in seconds, by which the call ends if `timeouts.deadline` is later.
        `earlier` is how many attempts were made before, by calls for the same purpose.

        Raises `ApiError`, `TransportError`, `DeadlineExceededError`, `InvalidResponseError` and
        `ConfigurationError` when awaited; `WrongEventLoopError` and, once the client is closed,
        `ConfigurationError` at once.
        """
        session = self.session
        deadlines = session.open(settles=self._settles)
        now = deadlines.loop.time()
        latest = now + self.timeouts.deadline
        deadline = latest if deadline is None else min(deadline, latest)
        call = Call(request, now, deadline, session.accepted, state, on_retry)
        call.earlier = earlier
        call.accepted_of_kind = session.accepted_of[request.kind]
        call.before_again = before_again
        return self._traced(call, deadlines) if is_traced() else self._send(call, deadlines)

    async def _traced(self, call: Call, deadlines: Deadlines) -> Response:
        request = call.request
        with call_span(request.kind, request.method, API_ROOT + request.path) as span:
            try:
                response = await self._send(call, deadlines)
                span.answered(response.status)
                return response
            finally:
                span.sent(call.attempts)

    async def _send(self, call: Call, deadlines: Deadlines) -> Response:
        session, request, rules = self.session, call.request, self._rules
        while True:
            try:
                result = await self._attempt(call, deadlines)
            except VPSBackupsError as error:  # nothing was sent
                step = rules.after_error(call, error, self._situation(call, deadlines))
            else:
                status = result.status
                if result.whole and status is not None and status < 300:
                    self.budget.earn()
                    return Response(
                        status, result.headers, result.body, request, call.attempts, session.mask
                    )
                step = rules.after(call, result, self._situation(call, deadlines))
            if isinstance(step, Done):
                if step.earns_budget:
                    self.budget.earn()
                return step.response
            await self._go_on(call, step)

    async def _go_on(self, call: Call, step: Fail | SendAgain) -> None:
        """Return once the call is to be sent again; raises what ends it, by all of its attempts."""
        try:
            if isinstance(step, Fail):
                raise step.error
            self._charge(call, step)
            self.note_retry(call.request, call.number, step.error, step.pause)
            if not step.in_limiter:
                await self.pause(step.pause)
            if call.before_again is not None:
                await call.before_again(step.error)
        except VPSBackupsError as error:
            if call.ambiguous:
                doubt(error, reads=call.request.policy.reads)
            raise

    def note_retry(
        self, request: Request, attempt: int, error: VPSBackupsError, pause: float
    ) -> None:
        """Count and tell that the request is sent again in `pause` seconds, after this attempt."""
        self.session.counters.retries += 1
        now = asyncio.get_running_loop().time()
        self.session.monitor.retrying(request, attempt, error, pause, now)

    def is_for_pace(self, error: VPSBackupsError, request: Request, accepted_of_kind: int) -> bool:
        """Whether a 503 is to slow the client down: the server is busy, and takes others.

        `accepted_of_kind` is the session's count of that kind when the request was sent.
        """
        now = asyncio.get_running_loop().time()
        situation = self.session.situation(request.kind, now)
        return is_for_pace(error, situation, situation.accepted, accepted_of_kind)

    async def pause(self, seconds: float) -> None:
        """Sleep; raises `ConfigurationError` as soon as the client is closed."""
        session = self.session
        deadlines = session.open(settles=self._settles)
        # Only the end of the client ends this scope.
        scope = deadlines.until(deadlines.loop.time() + seconds + _MORE_THAN_A_PAUSE)
        with session.waits.within(scope, settles=self._settles):
            await asyncio.sleep(seconds)

    def _charge(self, call: Call, step: SendAgain) -> None:
        """Take a further attempt from the budget; raises what ends the call instead."""
        if call.on_retry is not None:
            call.on_retry(step.error)
        if step.costs_budget and not self.budget.spend():
            raise without_budget(step.error)

    def _situation(self, call: Call, deadlines: Deadlines) -> Situation:
        return self.session.situation(call.request.kind, deadlines.loop.time())

    async def _attempt(self, call: Call, deadlines: Deadlines) -> Exchange:
        session, request, state = self.session, call.request, call.state
        if not session.try_acquire(deadlines.loop):
            await self._stand_in_line(call, deadlines)
        if session.capacity is not None:
            await self._wait_for_capacity(session.capacity, call, deadlines)
        tries = session.outage.lasts and await self._take_turn(call, deadlines)
        call.attempts += 1
        exchange = Exchange(call.number)
        on_the_wire = 0
        began = deadlines.loop.time()
        ends = began + self.timeouts.attempt
        is_last = call.deadline <= ends
        scope = deadlines.until(call.deadline if is_last else ends)
        try:
            with scope:
                channel = session.channel
                if channel is None:  # calls were refused while this request was in line
                    channel = session.channel_for(settles=self._settles)
                if state is not None:
                    call.check_may_begin(state)
                    on_the_wire = 1
                    state.on_the_wire += 1
                    state.began.append(began)
                session.counters.requests += 1
                await exchange.run(channel, request, self._connect)
        except DeadlineExceededError:  # it was too late to begin
            raise
        except TimeoutError:
            exchange.failure = self._rules.timed_out()
            exchange.late = is_last
        finally:
            if state is not None:
                state.on_the_wire -= on_the_wire
            # A loop that was closed meanwhile has no time, and its calls no end.
            if not deadlines.loop.is_closed():
                session.observe(request, exchange, deadlines.loop.time() - began)
                if tries:
                    session.outage.end_turn()
        return exchange

    async def _take_turn(self, call: Call, deadlines: Deadlines) -> bool:
        """Whether this request tries to reach a server that is away; False once it is back.

        While another one tries, it waits and leaves its slot in the limiter to others.
        """
        session, kind = self.session, call.request.kind
        while session.outage.lasts:
            if session.outage.try_turn(deadlines.loop.time()):
                return True
            session.give_back(kind)
            scope = deadlines.until(call.deadline)
            try:
                with session.waits.within(scope, call.request, settles=self._settles):
                    await session.outage.wait()
            except TimeoutError:
                now = deadlines.loop.time()
                raise self._rules.after_waiting(call, now, 0.0) from None
            await self._wait_in_line(call, deadlines)
            if session.capacity is not None:
                await self._wait_for_capacity(session.capacity, call, deadlines)
        return False

    async def _wait_for_capacity(
        self, capacity: AdaptiveLimiter, call: Call, deadlines: Deadlines
    ) -> None:
        """Return once no other client needs the connection; no time of the attempt runs yet."""
        session, kind = self.session, call.request.kind
        try:
            scope = deadlines.until(call.deadline)
            with session.waits.within(scope, call.request, settles=self._settles):
                return await capacity.acquire(1, kind)
        except BaseException as error:
            session.guarded.observe(Observation(kind))
            if not isinstance(error, TimeoutError):
                raise
        raise self._rules.after_waiting(call, deadlines.loop.time(), 0.0)

    async def _stand_in_line(self, call: Call, deadlines: Deadlines) -> None:
        """Wait in line; after a long wait await `before_again`, and wait once more."""
        began = deadlines.loop.time()
        await self._wait_in_line(call, deadlines)
        seconds = deadlines.loop.time() - began
        if call.before_again is None or seconds < _LONG_IN_LINE:
            return
        self.session.give_back(call.request.kind)
        late = VPSBackupsError(f"not sent: it stood in line for {seconds:.0f} s")
        await call.before_again(call.last_error or late)
        await self._wait_in_line(call, deadlines)

    async def _wait_in_line(self, call: Call, deadlines: Deadlines) -> None:
        """Return once the limiter lets the request through; no time of the attempt runs yet."""
        session, kind = self.session, call.request.kind
        now = deadlines.loop.time()
        closed = self._rules.while_closed(call, now, session.closed_for(kind), session.closed_by)
        if closed is not None:
            raise closed
        scope = deadlines.until(call.deadline)
        try:
            patience = self._retry.max_retry_after
            with session.waits.within(scope, call.request, patience, settles=self._settles):
                return await session.limiter.acquire(1, kind)
        except TimeoutError:
            if not scope.expired:  # it is the limiter's own
                raise
        now = deadlines.loop.time()
        raise self._rules.after_waiting(call, now, session.closed_for(kind), session.closed_by)
