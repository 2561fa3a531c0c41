"""How many connections a connector has for the clients that share it."""

from typing import Final
from weakref import WeakKeyDictionary

from vpsbackups_async._transport.adaptive import AdaptiveLimiter
from vpsbackups_async._transport.opening import Connector, connection_limit

__all__ = ["room_of"]

_rooms: Final[WeakKeyDictionary[Connector, AdaptiveLimiter]] = WeakKeyDictionary()


def room_of(connector: Connector | None) -> AdaptiveLimiter | None:
    """What lets through as many requests at once as a given connector has connections for.

    It is one for all clients that share the connector: where aiohttp queues, the wait for a
    connection would count as time of the request. None where there is no limit.
    """
    most = connection_limit(connector)
    if connector is None or most is None:
        return None
    return _rooms.setdefault(connector, AdaptiveLimiter(most))
