"""Pages of backups without those that cannot be read, so that one of them spoils no other."""

from collections.abc import Callable, Mapping

import msgspec
from msgspec.structs import replace

from vpsbackups_async._wire import BACKUPS, Listing, Response, from_json
from vpsbackups_async.errors import InvalidResponseError
from vpsbackups_async.models import Backup, Page

__all__ = ["readable_backups"]


def readable_backups(
    on_unreadable: Callable[[InvalidResponseError], object],
) -> Listing[Backup]:
    """The list of backups, whose pages leave out the backups that are invalid.

    `on_unreadable` is called with the error of the first one on a page. A page that has nothing
    valid, or is invalid otherwise, raises `InvalidResponseError`.
    """

    def read(response: Response) -> Page[Backup]:
        try:
            return BACKUPS.read(response)
        except InvalidResponseError as error:
            rest = _without_invalid(response.body)
            if rest is None:
                raise
            page = BACKUPS.read(replace(response, body=rest))
            on_unreadable(error.with_traceback(None))  # its frames hold the body
            return page

    return replace(BACKUPS, read=read)


def _without_invalid(body: bytes) -> bytes | None:
    """The page without its invalid backups; None if it has no valid ones or is no page."""
    try:
        data = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return None
    page = data if isinstance(data, Mapping) else {"results": data}
    items = page.get("results")
    if not isinstance(items, list):
        return None
    valid = [item for item in items if _is_valid(item)]
    if not valid:
        return None
    if isinstance(count := page.get("count"), int):  # else the rest would be taken to be missing
        page = {**page, "count": count - len(items) + len(valid)}
    return msgspec.json.encode({**page, "results": valid})


def _is_valid(item: object) -> bool:
    try:
        from_json(Backup, msgspec.json.encode(item))
    except ValueError:
        return False
    return True
