"""A server or proxy that says secrets back: they show nowhere, and data stays as it is."""

import asyncio
import base64
import html
import itertools
import json
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final
from urllib.parse import quote

import pytest
from helpers_metrics import Metrics
from helpers_secrets import CANARY, PROXY_CANARY, Ear, assert_clean, holds
from helpers_spans import Spans
from helpers_transport import BACKUP, CountingLimiter, RawServer, at_once, http

from vpsbackups_async import (
    BackupsClient,
    ConstantBackoff,
    CreateOutcomeUnknownError,
    PaginationError,
    Retention,
    Timeouts,
    VPSBackupsError,
    WaitError,
    from_json,
    to_json,
)
from vpsbackups_async._transport.secrets import Redactor
from vpsbackups_async.audit import audit
from vpsbackups_async.errors import NotRestorableError
from vpsbackups_async.events import Event
from vpsbackups_async.models import Backup, BackupStatus

# --- How a secret may be written ------------------------------------------------------------------

FORMS: Final[Mapping[str, Callable[[str], str]]] = {
    "raw": str,
    "upper case": str.upper,
    "percent": lambda text: "".join(f"%{ord(char):02X}" for char in text),
    "percent twice": lambda text: quote("".join(f"%{ord(char):02x}" for char in text)),
    "json": lambda text: "".join(f"\\u{ord(char):04x}" for char in text),
    "json in json": lambda text: "".join(f"\\\\u{ord(char):04X}" for char in text),
    "html": lambda text: "".join(f"&#{ord(char)};" for char in text),
    "html in html": lambda text: html.escape("".join(f"&#x{ord(char):x};" for char in text)),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 after one": lambda text: base64.b64encode(b"x" + text.encode()).decode(),
    "base64 after two": lambda text: base64.b64encode(b"xy" + text.encode()).decode(),
    "base64 for urls": lambda text: base64.urlsafe_b64encode(f"Bearer {text}".encode()).decode(),
    "its beginning": lambda text: text[:12],
    "its middle": lambda text: text[5:17],
    "its end": lambda text: text[-12:],
}


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_is_masked_in_every_form_and_what_surrounds_it_stays(form: str) -> None:
    mask = Redactor(CANARY, PROXY_CANARY)
    for secret in (CANARY, PROXY_CANARY):
        shown = mask(f"before {FORMS[form](secret)} after")
        assert not holds(shown)
        assert shown.startswith("before ")
        assert shown.endswith(" after")
        assert "***" in shown
    assert mask.finds_token(FORMS[form](CANARY))
    assert not mask.finds_token(FORMS[form](PROXY_CANARY))


@pytest.mark.parametrize("between", ["\n", "\r\n  ", "\u200b", "\\n", "&shy;", "%0A", "\\u200b"])
def test_a_secret_is_masked_where_it_is_broken_over_lines(between: str) -> None:
    shown = Redactor(CANARY)(f"a {between.join((CANARY[:9], CANARY[9:14], CANARY[14:]))} b")
    assert shown == "a *** b"


def test_several_secrets_are_each_masked_once() -> None:
    mask = Redactor(CANARY, "swordfish")
    assert mask(f"{CANARY}, swordfish{CANARY} and Swordfish") == "***, *** and ***"


@pytest.mark.parametrize("secret", ["", "a", "abc", "é", "éà"])
def test_what_is_too_short_for_a_secret_masks_nothing(secret: str) -> None:
    mask = Redactor(secret)
    for text in ("a page of abc", "é éà", ""):
        assert mask(text) == text
        assert not mask.finds_token(text)


@pytest.mark.parametrize("text", ["", "page=2&page_size=100", CANARY[:11], "%zz \\ &nbsp; &#x; \0"])
def test_a_text_without_a_secret_stays_as_it_is(text: str) -> None:
    mask = Redactor(CANARY, PROXY_CANARY)
    assert mask(text) == text
    assert not mask.finds_token(text)


def test_a_redactor_does_not_show_what_it_masks() -> None:
    assert_clean(Redactor(CANARY, PROXY_CANARY))


# --- A server that says the token back ------------------------------------------------------------

Reply = Callable[[str], bytes]


def text(said: str) -> bytes:
    return said.encode()


def page(**more: Any) -> bytes:
    return json.dumps({"count": 2, "next": None, "results": [], **more}).encode()


def backup(**more: Any) -> dict[str, Any]:
    return {**json.loads(BACKUP), **more}


def raw_json(template: str) -> Reply:
    """A reply with what is said put into its JSON unescaped, so that its own escapes count."""
    return lambda said: http(200, template.replace("SAID", said).encode())


HERE = "/api/v1/backups/"
ECHOES: Final[Mapping[str, Reply]] = {
    "a body that is no JSON": lambda said: http(200, f"<h1>{said}</h1>".encode()),
    "a failure in a success": raw_json('{"success": false, "error": "SAID"}'),
    "the title of a page": lambda said: http(502, f"<title>{said}</title>".encode()),
    "the type of a page": lambda said: http(200, b"<p>", Content_Type=f"text/{said}"),
    "a count": raw_json('{"count": "SAID", "results": []}'),
    "an id": lambda said: http(200, page(results=[backup(id=said)])),
    "a nested id": raw_json('{"results": [{"id": {"SAID": ["SAID"]}}]}'),
    "a time": lambda said: http(200, page(results=[backup(created_at=said)])),
    "a list of texts": raw_json('["SAID", "SAID"]'),
    "a text": raw_json('"SAID"'),
    "detail": lambda said: http(400, b'{"detail": "bad %s"}' % text(said)),
    "a long detail": lambda said: http(400, b'{"detail": "%s%s"}' % (b"x" * 485, text(said))),
    "fields": lambda said: http(400, b'{"%s": ["%s"]}' % (text(said), text(said))),
    "nested fields": lambda said: http(
        422, b'{"a": [{"%s": {"b": "%s"}}]}' % (text(said), text(said))
    ),
    "a list of errors": lambda said: http(409, b'["%s"]' % text(said)),
    "the id of a refused request": lambda said: http(404, b"{}", X_Request_ID=said),
    "the id of a broken request": lambda said: http(200, b"[", CF_Ray=said),
    "a 401": lambda said: http(401, text(said), WWW_Authenticate=said),
    "a 429": lambda said: http(429, text(said), Retry_After=said),
    "a 503": lambda said: http(503, text(said), Date=said),
    "a redirect": lambda said: http(302, b"", Location=f"https://evil.example/{said}"),
    "a cookie": lambda said: http(500, b"{}", Set_Cookie=f"{said} a={said}; Expires={said}"),
    "a status line": lambda said: f"HTTP/1.1 {said} OK\r\n\r\n".encode(),
    "a version": lambda said: f"{said} 200 OK\r\n\r\n".encode(),
    "a header line": lambda said: f"HTTP/1.1 200 OK\r\n{said} bad {said}\r\n\r\n".encode(),
    "a header's name": lambda said: f"HTTP/1.1 200 OK\r\n@{said}: 1\r\n\r\n".encode(),
    "a length": lambda said: f"HTTP/1.1 200 OK\r\nContent-Length: {said}\r\n\r\n".encode(),
    "an encoding": lambda said: http(200, b"x" * 9, Content_Encoding=said),
    "a transfer encoding": lambda said: http(200, b"x", Transfer_Encoding=said),
    "a chunk line": lambda said: (
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{said}\r\nabc\r\n".encode()
    ),
    "a chunk extension": lambda said: (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        f"3;{said}={said}\r\nabc\r\n0\r\n\r\n".encode()
    ),
    "a trailer": lambda said: (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        f"3\r\nabc\r\n0\r\n{said}: 1\r\nX-Request-ID: {said}\r\n\r\n".encode()
    ),
    "a broken trailer": lambda said: (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        f"3\r\nabc\r\n0\r\n{said} {said}\r\n\r\n".encode()
    ),
    "early hints": lambda said: (
        f"HTTP/1.1 103 {said}\r\nLink: <{said}>\r\n\r\n".encode() + http(500, b"{}")
    ),
    "other protocols": lambda said: (
        f"HTTP/1.1 101 {said}\r\nConnection: Upgrade\r\nUpgrade: {said}\r\n\r\n".encode()
    ),
    "a reason": lambda said: f"HTTP/1.1 500 {said}\r\nContent-Length: 0\r\n\r\n".encode(),
    "a 407": lambda said: http(407, text(said), Proxy_Authenticate=f"Basic realm={said}"),
    "a rate limit": lambda said: http(
        429, b"{}", X_RateLimit_Limit=said, X_RateLimit_Remaining=said, RateLimit=f"{said};r={said}"
    ),
    "a charset": lambda said: http(200, b"{", Content_Type=f"application/json; charset={said}"),
    "what asks to be closed": lambda said: http(503, b"{", Connection=said, Server=said),
    "a previous page": lambda said: http(200, page(previous=[said], next=[said])),
    "a server's name": raw_json('{"results": [{"id": 1, "server": {"id": 1, "name": ["SAID"]}}]}'),
    "a server's status": raw_json('{"results": [{"id": 1, "name": "a", "status": {"SAID": 1}}]}'),
    "an email": raw_json('{"email": ["SAID"], "id": "SAID"}'),
    "another host": lambda said: http(200, page(next=f"https://{said}.example/?page=2")),
    "another path": lambda said: http(200, page(next=f"{HERE}{said}/?page=2")),
    "no URL": lambda said: http(200, page(next=f"https://[{said}/")),
    "an internal host": lambda said: http(200, page(next=f"http://{said}:80{HERE}?page=2")),
    "a query": lambda said: http(200, page(next=f"{HERE}?page=2&cursor={said}")),
    "a repeated query": lambda said: http(200, page(next=f"{HERE}?{said[:11]}=1")),
}

VERBS: Final[Mapping[str, Callable[[BackupsClient], Any]]] = {
    "list": lambda client: client.list().collect(),
    "pages": lambda client: drained(client.list(prefetch=2).pages()),
    "snapshot": lambda client: client.list().snapshot(),
    "create": lambda client: client.create(1),
    "delete": lambda client: client.delete(1),
    "restore": lambda client: client.restore(1, 1),
    "wait": lambda client: client.wait(
        from_json(Backup, BACKUP.replace(b"completed", b"in_progress")),
        backoff=ConstantBackoff(0.01),
        timeout=0.02,
    ),
    "find": lambda client: drained(client.find([1, 2])),
    "fleet": lambda client: drained(client.fleet([1, 2]).list()),
    "fleet create": lambda client: drained(client.fleet([1, 2]).create()),
    "servers": lambda client: client.servers().collect(),
    "account": lambda client: client.account(),
    "ensure": lambda client: client.ensure(1, within=timedelta(days=1)),
    "plan": lambda client: client.plan_prune([1], Retention(last=1)),
    "rotate": lambda client: client.rotate(1, Retention(last=1, job="nightly")),
    "audit": lambda client: audit(client, [1, 2], rpo=timedelta(days=1)),
    "settle": lambda client: client.settle(CreateOutcomeUnknownError((), 1, "")),
    "background": lambda client: client.background(client.delete(1), name="job"),
}


async def drained(stream: Any) -> list[Any]:
    return [item async for item in stream]


async def ends_of(client: BackupsClient) -> list[BaseException]:
    """The errors of all verbs; what they give is data, and may be anything."""
    errors: list[BaseException] = []
    for verb in VERBS.values():
        (ended,) = await asyncio.gather(verb(client), return_exceptions=True)
        outcomes = ended if isinstance(ended, list) else [ended]
        errors += [one for one in outcomes if isinstance(one, BaseException)]
        errors += [one.error for one in outcomes if getattr(one, "error", None) is not None]
    return errors


@pytest.mark.virtual_time
@pytest.mark.parametrize("echo", ECHOES)
async def test_a_token_that_the_server_says_back_shows_nowhere(
    ear: Ear, spans: Spans, monkeypatch: pytest.MonkeyPatch, echo: str
) -> None:
    forms = itertools.cycle(FORMS.values())

    def answer(request: bytes) -> bytes:
        said = request.partition(b"Bearer ")[2].partition(b"\r\n")[0].decode()
        return ECHOES[echo](next(forms)(said))

    metrics = Metrics(monkeypatch)
    events: list[Event] = []
    async with (
        RawServer(answer).running() as server,
        BackupsClient(
            CANARY,
            on_event=events.append,
            base_url=server.url,
            retry=at_once(2, budget=None),
            timeouts=Timeouts(attempt=2),
            limiter=CountingLimiter(),
        ) as client,
    ):
        errors = await ends_of(client)
        server.requests.clear()
        assert_clean(client)
    assert errors or echo in {"an internal host", "a cookie", "an encoding", "a time"}
    for error in errors:
        assert isinstance(error, VPSBackupsError)
        assert_clean(error)
    for event in events:
        assert_clean(event)
    assert not holds(spans.text())
    assert not holds(metrics.text())


# --- Statuses, which are the server's own words ---------------------------------------------------


async def test_an_unknown_status_is_masked_in_errors_and_logs_and_stays_in_the_data(
    ear: Ear, spans: Spans
) -> None:
    async with (
        RawServer(lambda _: http(200, page(results=[backup(status=CANARY)]))).running() as server,
        BackupsClient(CANARY, base_url=server.url) as client,
    ):
        running = from_json(Backup, BACKUP.replace(b"completed", b"in_progress"))
        for options in ({"timeout": 0.05}, {"on_unknown": "raise"}):
            with pytest.raises(WaitError) as caught:
                await client.wait(running, backoff=ConstantBackoff(0.01), **options)  # type: ignore[arg-type]  # options
            assert repr(caught.value.last_status) == "<BackupStatus: '***'>"
            assert_clean(caught.value)
        with pytest.raises(NotRestorableError) as refused:
            await client.restore(1, 1)
        assert refused.value.status == "***"
        assert_clean(refused.value)
        server.requests.clear()
        await client.background(client.get(1), name="job")
        assert any(": backup 1 of server 1, ***" in text for text in ear.texts)
        assert (await client.get(1)).status == CANARY
        server.requests.clear()


@pytest.mark.parametrize("status", ["\x1b[31mred", "two\nlines", "\u202eback", "it's"])
def test_an_unknown_status_is_printed_without_control_characters(status: str) -> None:
    shown = repr(BackupStatus(status))
    assert shown.isprintable()
    assert shown == f"<BackupStatus: {status!r}>"
    assert repr(BackupStatus("completed")) == "<BackupStatus.COMPLETED: 'completed'>"


async def test_what_a_backup_says_is_handed_out_as_it_is() -> None:
    said = page(results=[backup(description=f"made with {CANARY}")], next=f"{HERE}?{CANARY}")
    async with (
        RawServer(lambda _: http(200, said)).running() as server,
        BackupsClient(CANARY, base_url=server.url) as client,
    ):
        first = await client.list().first()
        assert first is not None
        assert first.description == f"made with {CANARY}"
        assert from_json(Backup, to_json(first)) == first
        came: list[Backup] = []
        with pytest.raises(PaginationError, match=r"holds the token: '/api/v1/backups/\?\*\*\*'"):
            await gathered(client.list().pages(), came)
        assert came == [first]
        assert len(server.requests) == 2  # the token is not sent in a URL
        server.requests.clear()


async def gathered(pages: Any, into: list[Backup]) -> None:
    async for one in pages:
        into += one.items
