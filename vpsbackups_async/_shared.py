"""What a client needs for more than lists, loaded and made when it is first used."""

from functools import partial
from typing import Final

from vpsbackups_async import _on_demand
from vpsbackups_async._lists.lists import KnownLists, Lists, fetch_page
from vpsbackups_async._transport.retry import RetryBudget, RetryPolicy
from vpsbackups_async._transport.session import Session
from vpsbackups_async._transport.timeouts import Timeouts
from vpsbackups_async._transport.transport import Transport
from vpsbackups_async._wire import Mask
from vpsbackups_async.backoff import Backoff, ExponentialBackoff
from vpsbackups_async.models import Backup

__all__ = ["Shared"]

# A backup of somebody else may be stuck for days, so that looks at it become rare.
_OTHERS_BACKOFF: Final[Backoff] = ExponentialBackoff(5.0, factor=1.5, maximum=120.0)


class Shared:
    """What the waits, creates and jobs of a client share with those of its `with_options` copies.

    The looks of waits have these timeouts and retries.
    """

    def __init__(
        self, session: Session, lists: KnownLists, timeouts: Timeouts, retry: RetryPolicy
    ) -> None:
        self._session = session
        self._lists = lists
        self._timeouts, self._retry = timeouts, retry
        # Waits and creates look again and again while a list fails: with retries of their own, they
        # leave the budget to the caller's calls.
        self._looking_budget = RetryBudget(retry.budget)
        self._known: _on_demand.KnownBackups | None = None
        self._hub: _on_demand.WaitHub | None = None
        self._creates: _on_demand.Creates | None = None
        self._jobs: _on_demand.Jobs | None = None

    @property
    def known(self) -> "_on_demand.KnownBackups":
        """The backups that a later create cannot have made."""
        if self._known is None:
            self._known = _on_demand.KnownBackups()
        return self._known

    @property
    def hub(self) -> "_on_demand.WaitHub":
        """What looks for the backups of all waits."""
        if self._hub is None:
            self._hub = _on_demand.WaitHub(
                self._looker(self._timeouts, self._retry).search,
                patience=self._timeouts.attempt,
                closed_for=self._session.closed_for,
                monitor=self._session.monitor,
                closed=self._session.refuses,
            )
        return self._hub

    @property
    def jobs(self) -> "_on_demand.Jobs":
        """The background jobs."""
        if self._jobs is None:
            self._jobs = _on_demand.Jobs(self._session.mask)
        return self._jobs

    def creator(self, transport: Transport, retry: RetryPolicy) -> "_on_demand.Creator":
        """What creates backups by way of this transport, with its timeouts and these retries."""
        if self._creates is None:
            wait = partial(_wait_for_other, self.hub, self._session.mask)
            self._creates = _on_demand.Creates(wait, self.known, self._session.monitor)
        looker = self._looker(transport.timeouts, retry)
        return _on_demand.Creator(transport, looker, retry, self._creates)

    def finder(self, lists: Lists) -> "_on_demand.Finder":
        """What finds backups in these lists."""
        return _on_demand.Finder(lists, partial(self._session.guarded.count_of, "limit"))

    def _looker(self, timeouts: Timeouts, retry: RetryPolicy) -> "_on_demand.Finder":
        """What finds them for creates and waits."""
        looking = Transport(self._session, timeouts, retry, self._looking_budget, settles=True)
        return self.finder(Lists(partial(fetch_page, looking), self._lists))

    async def close(self) -> None:
        """Refuse further calls, and end the waits, the background jobs and the creates."""
        # In this order, so that jobs whose waits end can say which backup they waited for, and
        # creates whose jobs are cancelled are waited for.
        if self._creates is not None:
            self._creates.stop()
        self._session.refuse()
        if self._hub is not None:
            await self._hub.close()
        if self._jobs is not None:
            await self._jobs.close()
        if self._creates is not None:
            await self._creates.close()


async def _wait_for_other(
    hub: "_on_demand.WaitHub", mask: Mask, running: Backup, timeout: float | None
) -> Backup:
    waiter = _on_demand.Waiter(
        running.ref,
        running,
        backoff=_OTHERS_BACKOFF,
        timeout=timeout,
        appear_grace=0.0,
        mask=mask,
    )
    return await hub.wait(waiter)
