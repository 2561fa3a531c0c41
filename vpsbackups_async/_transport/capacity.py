"""How many connections a connector has, for the clients that share it and for their limiters."""

from typing import Final
from weakref import WeakKeyDictionary

from vpsbackups_async._transport.adaptive import AdaptiveLimiter
from vpsbackups_async._transport.limiter import Limiter, check_limiter, count_of
from vpsbackups_async._transport.opening import Connector, connection_limit
from vpsbackups_async.errors import ConfigurationError

__all__ = ["capacity_of", "fitting_limiter"]

_DEFAULT_CONCURRENCY: Final = 64
_capacities: Final[WeakKeyDictionary[Connector, AdaptiveLimiter]] = WeakKeyDictionary()


def capacity_of(connector: Connector | None) -> AdaptiveLimiter | None:
    """What lets through as many requests at once as a given connector has connections for.

    It is one for all clients that share the connector: where aiohttp queues, the wait for a
    connection would count as time of the request. None where there is no limit.
    """
    most = connection_limit(connector)
    if connector is None or most is None:
        return None
    return _capacities.setdefault(connector, AdaptiveLimiter(most))


def fitting_limiter(limiter: Limiter | None, given: Connector | None) -> Limiter:
    """A limiter that lets no more requests through than a given connector has connections for.

    Where aiohttp queues, its wait for a connection would count as time of the request.
    """
    most = connection_limit(given)
    if limiter is None:
        return AdaptiveLimiter(
            _DEFAULT_CONCURRENCY if most is None else min(most, _DEFAULT_CONCURRENCY)
        )
    check_limiter(limiter)
    wanted = count_of(limiter, "maximum")
    if most is not None and wanted is not None and wanted > most:
        raise ConfigurationError(
            f"the limiter lets {wanted} requests through at once, but the connector "
            f"opens {most} connections: raise its limit or lower the limiter's maximum"
        )
    return limiter
