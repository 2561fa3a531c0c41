"""The account that the fake server holds in memory, and what time does to its backups."""

from __future__ import annotations

import bisect
import heapq
import itertools
import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from types import EllipsisType
from typing import Any

import attrs

from .clock import iso, parse_iso
from .knobs import JSON, Knobs

__all__ = ["Account", "Held", "Key", "Rows"]

DAY = 86_400.0
RUNNING = "in_progress"
DONE = "completed"
Key = tuple[Any, int]


@attrs.define(eq=False)
class Held:
    """One backup as the server holds it; ``data`` is its JSON."""

    id: int
    server_id: int
    data: JSON
    key: Key
    _text: bytes | None = None

    @property
    def kind(self) -> object:
        """The type of the backup."""
        return self.data.get("backup_type")

    @property
    def text(self) -> bytes:
        """The JSON as it goes into a list, made once for each state of the backup."""
        if self._text is None:
            self._text = json.dumps(self.data, separators=(",", ":"), ensure_ascii=False).encode()
        return self._text

    def become(self, status: str) -> None:
        """Take on this status, and a size if that is ``completed``."""
        self.data["status"] = status
        if status == DONE and self.data.get("size_mb") is None:
            self.data["size_mb"] = 4000 + self.id * 7 % 1000
        self._text = None


class Rows:
    """Keys of backups in ascending order; adding at the end, the usual case, costs nothing."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.keys: list[Key] = list(keys)

    def add(self, key: Key) -> None:
        """Put the key in its place."""
        if not self.keys or key > self.keys[-1]:
            self.keys.append(key)
        else:
            bisect.insort(self.keys, key)

    def discard(self, key: Key) -> None:
        """Take the key out, if it is there."""
        place = bisect.bisect_left(self.keys, key)
        if place < len(self.keys) and self.keys[place] == key:
            del self.keys[place]


class Account:
    """Servers and backups, with indexes by server and type.

    Nothing runs in the background: what falls due (a backup ends, shows in the list, expires) is
    settled when somebody looks.
    """

    def __init__(
        self,
        knobs: Knobs,
        clock: Callable[[], float],
        servers: Mapping[int, str],
        order: str,
        seed: int,
    ) -> None:
        self.servers = dict(servers)
        self.descending = order.startswith("-")
        self._order = order.lstrip("-")
        self._knobs = knobs
        self._clock = clock
        self._shuffle = random.Random(seed)
        self._held: dict[int, Held] = {}
        self._on_server: dict[int, dict[int, Held]] = defaultdict(dict)
        self._rows = Rows()
        self._rows_by_server: dict[int, Rows] = defaultdict(Rows)
        self._rows_by_type: dict[object, Rows] = defaultdict(Rows)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._turn = itertools.count()
        self._last_id = 0

    def settle(self) -> None:
        """Let all happen that fell due until now."""
        while self._due and self._due[0][0] <= self._clock():
            heapq.heappop(self._due)[2]()

    def get(self, backup_id: int) -> Held | None:
        """The backup with this id, in the list or not yet, or None."""
        self.settle()
        return self._held.get(backup_id)

    def all(self) -> list[Held]:
        """Every backup, by ascending id, those not yet in the list too."""
        self.settle()
        return sorted(self._held.values(), key=lambda held: held.id)

    def rows(self, server_id: int | None = None, kind: str | None = None) -> list[Key]:
        """Keys of the listed backups, ascending; a filter costs no look at other servers."""
        self.settle()
        if server_id is None:
            rows = self._rows if kind is None else self._rows_by_type.get(kind, _NONE)
            return rows.keys
        keys = self._rows_by_server.get(server_id, _NONE).keys
        return keys if kind is None else [k for k in keys if self._held[k[1]].kind == kind]

    def text(self, key: Key) -> bytes:
        """The JSON of a listed backup."""
        return self._held[key[1]].text

    def on_server(self, server_id: int) -> Iterable[Held]:
        """Every backup of one server."""
        self.settle()
        return self._on_server.get(server_id, {}).values()

    def remove(self, backup_id: int) -> Held | None:
        """The backup that is gone now, or None if there was none with this id."""
        self.settle()
        held = self._held.pop(backup_id, None)
        if held is not None:
            del self._on_server[held.server_id][held.id]
            self._rows.discard(held.key)
            self._rows_by_server[held.server_id].discard(held.key)
            self._rows_by_type[held.kind].discard(held.key)
        return held

    def create(self, server_id: int, description: str) -> Held:
        """A manual backup that has just begun and will end by the knobs."""
        knobs = self._knobs
        held = self.add(server_id, status=RUNNING, description=description, listed=False)
        takes = knobs.backup_seconds
        seconds = takes(dict(held.data)) if callable(takes) else takes
        self._later(self._clock() + knobs.visible_after, lambda: self._show(held))
        self.end_later(held, seconds)
        self.settle()
        return held

    def end_later(self, held: Held, seconds: float) -> None:
        """Have the backup complete then, or fail by the knobs, if it still runs."""

        def end() -> None:
            if held.data.get("status") == RUNNING:
                held.become(self._knobs.failed_status if self._fails(held) else DONE)

        self._later(self._clock() + seconds, end)

    def add(
        self,
        server_id: int,
        *,
        backup_type: str = "manual",
        status: str = DONE,
        created_at: str | datetime | None = None,
        size_mb: int | EllipsisType | None = ...,
        description: str | None = "",
        omit: Iterable[str] = (),
        listed: bool = True,
        **fields: Any,
    ) -> Held:
        """A backup with these fields; see `FakeVPS.add_backup`."""
        backup_id = int(fields.pop("id", self._last_id + 1))
        if backup_id in self._held:
            raise ValueError(f"backup {backup_id} is there already")
        if isinstance(created_at, datetime):
            created_at = iso(created_at.timestamp())
        created_at = iso(self._clock()) if created_at is None else created_at
        data: JSON = {
            "id": backup_id,
            "server": {"id": server_id, "name": self.servers[server_id]},
            "backup_type": backup_type,
            "status": status,
            "size_mb": None if size_mb is ... else size_mb,
            "created_at": created_at,
            "expires_at": self._expiry(backup_type, created_at),
            "description": description,
            **fields,
        }
        held = Held(backup_id, server_id, data, self._key(backup_id, created_at))
        if size_mb is ...:
            held.become(status)
        for name in omit:
            del data[name]
        self._keep(held, listed)
        return held

    def _keep(self, held: Held, listed: bool) -> None:
        self._last_id = max(self._last_id, held.id)
        self._held[held.id] = held
        self._on_server[held.server_id][held.id] = held
        if listed:
            self._show(held)
        expires = parse_iso(held.data.get("expires_at"))
        if expires is not None:
            self._later(expires, lambda: self._expire(held))

    def _later(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when, next(self._turn), what))

    def _show(self, held: Held) -> None:
        if self._held.get(held.id) is held:
            self._rows.add(held.key)
            self._rows_by_server[held.server_id].add(held.key)
            self._rows_by_type[held.kind].add(held.key)

    def _expire(self, held: Held) -> None:
        if self._held.get(held.id) is held:
            self.remove(held.id)

    def _fails(self, held: Held) -> bool:
        fails = self._knobs.fails
        return fails(dict(held.data)) if callable(fails) else held.server_id in fails

    def _expiry(self, kind: str, created_at: str) -> str | None:
        created = parse_iso(created_at)
        if kind != "automatic" or created is None:
            return None
        return iso(created + self._knobs.retention_days * DAY)

    def _key(self, backup_id: int, created_at: str) -> Key:
        match self._order:
            case "created_at":
                return created_at, backup_id
            case "random":
                return self._shuffle.random(), backup_id
            case _:
                return 0, backup_id


_NONE = Rows()
