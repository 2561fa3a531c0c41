"""The OpenTelemetry spans of a test."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


class Spans:
    """The spans that ended so far; skips the test where OpenTelemetry is not installed."""

    def __init__(self) -> None:
        sdk = pytest.importorskip("opentelemetry.sdk.trace")
        export = pytest.importorskip("opentelemetry.sdk.trace.export")
        memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
        self._kinds = pytest.importorskip("opentelemetry.trace").SpanKind
        self._exporter = memory.InMemorySpanExporter()
        self.provider = sdk.TracerProvider()
        self.provider.add_span_processor(export.SimpleSpanProcessor(self._exporter))

    def all(self) -> Any:
        return self._exporter.get_finished_spans()

    def of_calls(self) -> list[Any]:
        return [span for span in self.all() if span.name.startswith("vpsbackups ")]

    def of_requests(self) -> list[Any]:
        return [span for span in self.all() if span.kind is self._kinds.CLIENT]

    def text(self) -> str:
        return "\n".join(span.to_json() for span in self.all())


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    """The spans of a block; the global provider can be set only once a process."""
    spans = Spans()
    trace = pytest.importorskip("opentelemetry.trace")
    client = pytest.importorskip("opentelemetry.instrumentation.aiohttp_client")
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: spans.provider)
    instrumentor = client.AioHttpClientInstrumentor()
    instrumentor.instrument(tracer_provider=spans.provider)
    yield spans
    instrumentor.uninstrument()
