"""A fake VPS.org server for tests: it runs in memory on a loopback port and fails on request.

It shares no code with the client, so that one mistake cannot hide in both. `VirtualTime` lets a
test of a ten-minute wait take milliseconds. The pytest plugin has fixtures for both.
"""

from __future__ import annotations

from .contract import openapi
from .faults import (
    Drop,
    Fault,
    Garbage,
    GzipBomb,
    HostileNext,
    Latency,
    NotJSON,
    Oversized,
    RateLimit,
    Redirect,
    Reply,
    ServerFault,
    Truncate,
)
from .seen import SeenRequest
from .server import FakeVPS
from .virtual import VirtualTime

__all__ = [
    "Drop",
    "FakeVPS",
    "Fault",
    "Garbage",
    "GzipBomb",
    "HostileNext",
    "Latency",
    "NotJSON",
    "Oversized",
    "RateLimit",
    "Redirect",
    "Reply",
    "SeenRequest",
    "ServerFault",
    "Truncate",
    "VirtualTime",
    "openapi",
]
