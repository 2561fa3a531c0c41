"""The account in memory: servers and backups, which end, appear and expire as time passes."""

from __future__ import annotations

import bisect
import heapq
import itertools
import json
import random
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from types import EllipsisType
from typing import Any

import attrs

from .clock import iso, parse_iso
from .knobs import JSON, Knobs

__all__ = ["Account", "Key", "SortedKeys", "StoredBackup"]

DAY = 86_400.0
_FIRST_DOWN = 1_000_000
_BLOCKS = 4
_BLOCK_SIZE = 1_000_000
RUNNING = "in_progress"
DONE = "completed"
Key = tuple[Any, int]


@attrs.define(eq=False)
class StoredBackup:
    """One backup of the account; ``data`` is its JSON."""

    id: int
    server_id: int
    data: JSON
    key: Key
    _encoded: bytes | None = None

    @property
    def backup_type(self) -> object:
        """The type of the backup, or None if its JSON omits it."""
        return self.data.get("backup_type")

    @property
    def encoded(self) -> bytes:
        """The encoded JSON, cached until the status changes."""
        if self._encoded is None:
            text = json.dumps(self.data, separators=(",", ":"), ensure_ascii=False)
            self._encoded = text.encode()
        return self._encoded

    def set_status(self, status: str) -> None:
        """Set the status, and a size if the backup is ``completed`` and has none."""
        self.data["status"] = status
        if status == DONE and self.data.get("size_mb") is None:
            self.data["size_mb"] = 4000 + self.id * 7 % 1000
        self._encoded = None


class SortedKeys:
    """Keys of backups in ascending order. Appending the largest key, the usual case, is O(1)."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.keys: list[Key] = list(keys)

    def add(self, key: Key) -> None:
        """Insert the key at its sorted position."""
        if not self.keys or key > self.keys[-1]:
            self.keys.append(key)
        else:
            bisect.insort(self.keys, key)

    def discard(self, key: Key) -> None:
        """Remove the key if it is present."""
        index = bisect.bisect_left(self.keys, key)
        if index < len(self.keys) and self.keys[index] == key:
            del self.keys[index]


class Account:
    """Servers and backups, with indexes by server and by type.

    Nothing runs in the background. A backup that is due to end, to appear in the list or to expire
    does so at the next access. With a server in a thread of its own, hold ``lock`` for each access.
    """

    def __init__(
        self,
        knobs: Knobs,
        clock: Callable[[], float],
        servers: Mapping[int, str],
        order: str,
        seed: int,
    ) -> None:
        self.lock: threading.RLock = threading.RLock()
        self.servers: dict[int, str] = dict(servers)
        self.server_fields: dict[int, JSON] = {}
        self.descending: bool = order.startswith("-")
        self._order = order.lstrip("-")
        self._knobs = knobs
        self._clock = clock
        self._shuffle = random.Random(seed)
        self._backups: dict[int, StoredBackup] = {}
        self._by_server: dict[int, dict[int, StoredBackup]] = defaultdict(dict)
        self._keys = SortedKeys()
        self._keys_by_server: dict[int, SortedKeys] = defaultdict(SortedKeys)
        self._keys_by_type: dict[object, SortedKeys] = defaultdict(SortedKeys)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()
        self._last_id = 0
        self._first_id = _FIRST_DOWN + 1
        self._in_block = [0] * _BLOCKS

    def run_due(self) -> None:
        """Apply every change that is due by now."""
        while self._due and self._due[0][0] <= self._clock():
            heapq.heappop(self._due)[2]()

    def get(self, backup_id: int) -> StoredBackup | None:
        """The backup with this id, in the list or not yet; None if it does not exist."""
        self.run_due()
        return self._backups.get(backup_id)

    def all(self) -> list[StoredBackup]:
        """Every backup in ascending order of id, including those not yet in the list."""
        self.run_due()
        return sorted(self._backups.values(), key=lambda backup: backup.id)

    def keys(self, server_id: int | None = None, backup_type: str | None = None) -> list[Key]:
        """Keys of the listed backups, ascending; a filter by server reads only that server's."""
        self.run_due()
        if server_id is None:
            if backup_type is None:
                return self._keys.keys
            return self._keys_by_type.get(backup_type, _NO_KEYS).keys
        keys = self._keys_by_server.get(server_id, _NO_KEYS).keys
        if backup_type is None:
            return keys
        return [key for key in keys if self._backups[key[1]].backup_type == backup_type]

    def encoded(self, key: Key) -> bytes:
        """The encoded JSON of a listed backup."""
        return self._backups[key[1]].encoded

    def on_server(self, server_id: int) -> Iterable[StoredBackup]:
        """Every backup of one server, including those not yet in the list."""
        self.run_due()
        return self._by_server.get(server_id, {}).values()

    def remove(self, backup_id: int) -> StoredBackup | None:
        """Remove a backup and return it, or return None if it does not exist."""
        self.run_due()
        backup = self._backups.pop(backup_id, None)
        if backup is not None:
            del self._by_server[backup.server_id][backup.id]
            self._keys.discard(backup.key)
            self._keys_by_server[backup.server_id].discard(backup.key)
            self._keys_by_type[backup.backup_type].discard(backup.key)
        return backup

    def create(self, server_id: int, description: str) -> StoredBackup:
        """Start a manual backup, which appears in the list and ends as the knobs say."""
        knobs = self._knobs
        backup = self.add(server_id, status=RUNNING, description=description, listed=False)
        seconds = knobs.backup_seconds
        if callable(seconds):
            seconds = seconds(dict(backup.data))
        hidden = knobs.visible_after
        if callable(hidden):
            hidden = hidden(dict(backup.data))
        self._schedule(self._clock() + hidden, lambda: self._show(backup))
        self.end_later(backup, seconds)
        self.run_due()
        return backup

    def end_later(self, backup: StoredBackup, seconds: float) -> None:
        """End the backup in ``seconds``, completed or failed as the knobs say, if it still runs."""

        def end() -> None:
            if backup.data.get("status") == RUNNING:
                backup.set_status(self._knobs.failed_status if self._fails(backup) else DONE)

        self._schedule(self._clock() + seconds, end)

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
    ) -> StoredBackup:
        """Add a backup with these fields and return it; see `FakeVPS.add_backup`."""
        given = fields.pop("id", None)
        backup_id = self._new_id() if given is None else int(given)
        if backup_id in self._backups:
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
        backup = StoredBackup(backup_id, server_id, data, self._key(backup_id, created_at))
        if size_mb is ...:
            backup.set_status(status)
        for name in omit:
            del data[name]
        self._store(backup, listed)
        return backup

    def _new_id(self) -> int:
        """An id that is not in use, by the order that the knobs ask for."""
        match self._knobs.new_ids:
            case "down":
                return self._first_id - 1
            case "blocks":
                block = self._shuffle.randrange(_BLOCKS)
                self._in_block[block] += 1
                return block * _BLOCK_SIZE + self._in_block[block]
            case _:
                return self._last_id + 1

    def _store(self, backup: StoredBackup, listed: bool) -> None:
        self._last_id = max(self._last_id, backup.id)
        self._first_id = min(self._first_id, backup.id)
        self._backups[backup.id] = backup
        self._by_server[backup.server_id][backup.id] = backup
        if listed:
            self._show(backup)
        expires = parse_iso(backup.data.get("expires_at"))
        if expires is not None:
            self._schedule(expires, lambda: self._expire(backup))

    def _schedule(self, when: float, change: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when, next(self._sequence), change))

    def _show(self, backup: StoredBackup) -> None:
        if self._backups.get(backup.id) is backup:
            self._keys.add(backup.key)
            self._keys_by_server[backup.server_id].add(backup.key)
            self._keys_by_type[backup.backup_type].add(backup.key)

    def _expire(self, backup: StoredBackup) -> None:
        if self._backups.get(backup.id) is backup:
            self.remove(backup.id)

    def _fails(self, backup: StoredBackup) -> bool:
        fails = self._knobs.fails
        return fails(dict(backup.data)) if callable(fails) else backup.server_id in fails

    def _expiry(self, backup_type: str, created_at: str) -> str | None:
        created = parse_iso(created_at)
        if backup_type != "automatic" or created is None:
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


_NO_KEYS = SortedKeys()
