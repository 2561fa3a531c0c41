"""Whether another thread of the process works, or all of them wait for something to do."""

from __future__ import annotations

import functools
import linecache
import re
import selectors
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from types import CodeType, FrameType
from typing import Any
from weakref import WeakKeyDictionary

__all__ = ["OtherThreads"]

# The code of a frame, and the offset of the instruction that it is at.
Position = tuple[CodeType, int]

# Calls of queues, locks and handles of threads, which are written in C and have no frame.
_WAITING_CALL = re.compile(r"\b([A-Za-z_][\w.]*)\.(?:get|acquire|join)\(")


# Seconds in one call after which a thread may stay in it for long.
LONG = 0.02

# Seconds in which a thread that another one has woken comes to run, or to wait for a processor.
WAKING = 0.001

_stays: WeakKeyDictionary[threading.Thread, Position] = WeakKeyDictionary()


class OtherThreads:
    """The threads of the process, except for the one that makes this.

    A thread that is in one call for 20 ms meanwhile does not count while it is in that call:
    pytest-xdist and debuggers have one that reads from a pipe or socket all the time.
    """

    def __init__(self) -> None:
        self._own = threading.get_ident()
        busy = self._busy(self._frames())
        if busy:
            time.sleep(LONG)
            _stays.update(busy.items() & self._busy(self._frames()).items())

    def work(self) -> bool:
        """Whether any thread works: it runs, sleeps, reads or writes.

        A thread does not work while it waits for a lock, for a queue or for another thread, while
        its event loop has nothing to do, or while its server waits for a connection.
        """
        frames = self._frames()
        if self._busy(frames):
            return True
        waking = [each for each in frames if isinstance(_awaited(frames[each]), SimpleQueue)]
        if not waking:
            return False
        # Since Python 3.13 a queue hands an item to a thread that waits for one and stays empty, so
        # that the thread shows that it has work only once it runs. It may have to wait for a
        # processor, and then for the interpreter's lock.
        for _ in range(2):
            time.sleep(WAKING)
            while any(map(_is_runnable, waking)):
                time.sleep(WAKING)
        return bool(self._busy(self._frames()))

    def follow_current(self) -> None:
        """Count the current thread from now on, whatever call it is in."""
        _stays.pop(threading.current_thread(), None)

    def _frames(self) -> dict[threading.Thread, FrameType]:
        threads = threading.enumerate()
        if len(threads) == 1:
            return {}
        frames = sys._current_frames()
        return {
            thread: frames[thread.ident]
            for thread in threads
            if thread.ident in frames and thread.ident != self._own
        }

    def _busy(self, frames: dict[threading.Thread, FrameType]) -> dict[threading.Thread, Position]:
        return {
            thread: position
            for thread, frame in frames.items()
            if not _waits(frame)
            and (position := (frame.f_code, frame.f_lasti)) != _stays.get(thread)
        }


def _is_runnable(thread: threading.Thread) -> bool:
    """Whether the system has the thread wait for a processor; False where it does not say so."""
    try:
        status = Path(f"/proc/self/task/{thread.native_id}/stat").read_bytes()
    except OSError:  # not Linux, or the thread has ended
        return False
    return status.rpartition(b")")[2].split()[0] == b"R"


def _waits(frame: FrameType) -> bool:
    if frame.f_code.co_filename == selectors.__file__:
        return True
    if frame.f_code is socket.socket.accept.__code__:
        return True
    # A thread that has been given something works, even if it has had no time to run yet.
    if frame.f_code is threading.Condition.wait.__code__:
        names = frame.f_locals
        return names.get("waiter") in names["self"]._waiters
    awaited = _awaited(frame)
    if isinstance(awaited, SimpleQueue):
        return awaited.empty()
    if hasattr(awaited, "locked"):
        return bool(awaited.locked())
    return hasattr(awaited, "is_done") and not awaited.is_done()


def _awaited(frame: FrameType) -> Any:
    """The object whose `get`, `acquire` or `join` is called in the current line of the frame."""
    names = _awaited_names(frame.f_code.co_filename, frame.f_lineno)
    awaited = frame.f_locals.get(names[0]) if names else None
    with suppress(TypeError):  # an object without attributes of its own
        # Not `getattr`, which may run code of the other thread's objects.
        for name in names[1:]:
            awaited = vars(awaited).get(name)
        return awaited
    return None


@functools.lru_cache(maxsize=1024)
def _awaited_names(file: str, line: int) -> tuple[str, ...]:
    found = _WAITING_CALL.search(linecache.getline(file, line))
    return tuple(found[1].split(".")) if found else ()
