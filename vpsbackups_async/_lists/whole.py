"""All servers of a list, read lazily, where a part must not be taken for the whole."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from vpsbackups_async._lists.lists import ListQuery, Lists
from vpsbackups_async._lists.seen import SeenIds
from vpsbackups_async._lists.walk import SWEEPS
from vpsbackups_async.errors import ConfigurationError, PaginationError
from vpsbackups_async.models import Server

__all__ = ["WholeServers"]


class WholeServers:
    """The servers of a list as they come, each once; the list is read again if it moves meanwhile.

    After the last server, `PaginationError` is raised if the list was not complete in any of three
    readings, and `ConfigurationError` if it has no servers.
    """

    def __init__(self, lists: Lists, query: ListQuery[Server]) -> None:
        self._lists = lists
        self._query = query

    async def __aiter__(self) -> AsyncGenerator[Server]:
        seen = SeenIds()
        found = False
        for _ in range(SWEEPS):
            walk = self._lists.open(self._query)
            async with aclosing(walk.pages()) as pages:
                async for page in pages:
                    for server in seen.add(page.items):
                        found = True
                        yield server
            if walk.complete:
                break
        else:
            error = PaginationError("the list of servers could not be read completely")
            error.hint = "Servers may be missing: run it again later, or name them by their ids"
            raise error
        if not found:
            facts = ", ".join(f"{name}={value}" for name, value in self._query.filters.items())
            raise ConfigurationError(
                f"the account has no servers{facts and f' with {facts}'}: "
                "name them by their ids, or check whose token this is"
            )
