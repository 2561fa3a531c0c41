"""Whether another thread of the process works, or all of them wait for something to do."""

from __future__ import annotations

import ast
import dis
import functools
import itertools
import linecache
import selectors
import socket
import sys
import threading
import time
from pathlib import Path
from types import CodeType
from typing import NamedTuple
from weakref import WeakKeyDictionary

__all__ = ["OtherThreads"]


class Position(NamedTuple):
    """Where a thread is: the code of its innermost frame, and the offset of the instruction.

    Nothing else of the frame is read: its variables are not safe to read while it runs.
    """

    code: CodeType
    offset: int


# Methods of queues, locks and handles of threads, which are written in C and have no frame.
_WAITING_METHODS = frozenset({"get", "acquire", "join", "__enter__"})


# What may stand behind `with` and is no call itself.
_NAMES = (ast.Name, ast.Attribute, ast.Subscript)

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
        self._rested: dict[threading.Thread, int] = {}
        busy = _busy(self._positions())
        if busy:
            time.sleep(LONG)
            _stays.update(busy.items() & _busy(self._positions()).items())

    def work(self) -> bool:
        """Whether any thread works: it runs, sleeps, reads or writes.

        A thread does not work while it waits for a lock, for a queue or for another thread, while
        its event loop has nothing to do, or while its server waits for a connection.
        """
        before = self._positions()
        if _busy(before):
            return True
        waiting = [each for each, position in before.items() if _is_in_waiting_call(position)]
        rested = {each: times for each in waiting if (times := _rests(each)) is not None}
        # One that was given something shows that it works only once it runs. None of them ran since
        # the last look, after which all were idle.
        if len(rested) == len(waiting) and rested.items() <= self._rested.items():
            return False
        # It may have to wait for a processor, and then for the interpreter's lock.
        for _ in range(2):
            time.sleep(WAKING)
            while any(map(_is_runnable, waiting)):
                time.sleep(WAKING)
        after = self._positions()
        moved = any(after.get(each) != before[each] for each in waiting)
        if moved or _busy(after):
            return True
        self._rested = rested
        return False

    def follow_current(self) -> None:
        """Count the current thread from now on, whatever call it is in."""
        _stays.pop(threading.current_thread(), None)

    def _positions(self) -> dict[threading.Thread, Position]:
        threads = threading.enumerate()
        if len(threads) == 1:
            return {}
        frames = sys._current_frames()
        return {
            thread: Position(frame.f_code, frame.f_lasti)
            for thread in threads
            if thread.ident != self._own and (frame := frames.get(thread.ident or 0)) is not None
        }


def _busy(positions: dict[threading.Thread, Position]) -> dict[threading.Thread, Position]:
    return {
        thread: position
        for thread, position in positions.items()
        if not _waits(position) and position != _stays.get(thread)
    }


def _rests(thread: threading.Thread) -> int | None:
    """How often the thread has gone to rest; None if it does not rest, or the system does not say.

    Who wakes a thread makes it runnable at once.
    """
    status = _status(thread)
    if status is None or status["State"].startswith("R"):
        return None
    return int(status["voluntary_ctxt_switches"])


def _is_runnable(thread: threading.Thread) -> bool:
    """Whether the system has the thread wait for a processor; False where it does not say so."""
    status = _status(thread)
    return status is not None and status["State"].startswith("R")


def _status(thread: threading.Thread) -> dict[str, str] | None:
    """What Linux says of the thread; None if it has ended, and on other systems."""
    try:
        text = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    except OSError:
        return None
    lines = (line.partition(":\t") for line in text.splitlines())
    return {name: value for name, _, value in lines}


def _waits(position: Position) -> bool:
    code = position.code
    if code.co_filename == selectors.__file__ or code is socket.socket.accept.__code__:
        return True
    return _is_in_waiting_call(position)


@functools.lru_cache(maxsize=1024)
def _is_in_waiting_call(position: Position) -> bool:
    """Whether the thread enters a lock by `with`, or its source is a call of a waiting method."""
    operation = dis.opname[position.code.co_code[position.offset]]
    if operation == "BEFORE_WITH":
        return True
    try:
        source = ast.parse(f"({_source(position)})", mode="eval").body
    except SyntaxError:  # there is no source, or it is not an expression
        return False
    if isinstance(source, ast.Call):
        called = source.func
        return isinstance(called, ast.Attribute) and called.attr in _WAITING_METHODS
    return operation == "CALL" and isinstance(source, _NAMES)  # `with` from Python 3.14 on


def _source(position: Position) -> str:
    """The source of the expression that the thread evaluates; empty if that is not known."""
    code, offset = position
    spans = itertools.islice(code.co_positions(), offset // 2, None)
    first, last, begin, end = next(spans, (None, None, None, None))
    if first is None or last is None:
        return ""
    lines = [line.encode() for line in linecache.getlines(code.co_filename)[first - 1 : last]]
    if not lines:
        return ""
    lines[-1] = lines[-1][:end]
    lines[0] = lines[0][begin:]
    return b"".join(lines).decode(errors="replace")
