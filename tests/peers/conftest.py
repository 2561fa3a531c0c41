"""Fixtures for the tests against other people's programs, and a summary of what they counted."""

import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trustme
from helpers_peers import TALLY, Record, Start, end, started

from vpsbackups_async.testing import FakeVPS


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where the output of the programs goes."""
    return tmp_path / "programs.log"


@pytest.fixture
def start(log: Path) -> Iterator[Start]:
    """Starts a program and returns once it listens; all are ended after the test."""
    running: list[subprocess.Popen[bytes]] = []
    yield started(running, log)
    for process in reversed(running):
        end(process)


@pytest.fixture
def record(record_property: Callable[[str, object], None]) -> Record:
    return partial(record_property, TALLY)


@pytest.fixture
async def origin() -> AsyncIterator[FakeVPS]:
    """The server behind the programs: 600 servers with two backups each, on the real clock."""
    async with FakeVPS(
        servers=600, backups=2, quota=1_000_000, backup_seconds=0, clock=time.time
    ) as fake:
        yield fake


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """A client's context that trusts `authority`."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def certified(authority: trustme.CA) -> ssl.SSLContext:
    """A server's context with a certificate for loopback."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def certificate(authority: trustme.CA, tmp_path: Path) -> Path:
    """A PEM file with a key and a certificate for loopback."""
    path = tmp_path / "server.pem"
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(path)
    )
    return path


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counted = [
        (report.nodeid.partition("::")[2], value)
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
        if report.when == "call"
        for name, value in report.user_properties
        if name == TALLY
    ]
    if counted:
        terminalreporter.section("counted at the origins")
        for test, value in counted:
            terminalreporter.write_line(f"{test}: {value}")
