"""One OpenTelemetry span per call, if the application has set up OpenTelemetry.

This module never imports it: as long as it is not loaded, no tracer provider is set.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from vpsbackups_async.errors import ApiError

__all__ = ["CallSpan", "call_span", "is_traced", "tag_attempt"]

_RESENT: Final = "http.request.resend_count"


class CallSpan:
    """The span of a call; does nothing without one."""

    __slots__ = ("_span",)

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def sent(self, attempts: int) -> None:
        """Called at the end of a call with the number of its attempts."""
        if self._span is not None and attempts > 1:
            self._span.set_attribute(_RESENT, attempts - 1)

    def answered(self, status: int) -> None:
        """Called with the status of the answer that ends the call."""
        if self._span is not None:
            self._span.set_attribute("http.response.status_code", status)


def is_traced() -> bool:
    """Whether the application has set up OpenTelemetry."""
    trace = sys.modules.get("opentelemetry.trace")
    return trace is not None and not isinstance(
        trace.get_tracer_provider(), trace.ProxyTracerProvider
    )


@contextmanager
def call_span(kind: str, method: str, path: str) -> Iterator[CallSpan]:
    """A span around all attempts of one call; `kind` is part of its name.

    Spans of the requests become its children. It holds the method, the path without the query, the
    status, the number of repeats, and the class of an error, but not its text.
    """
    trace = _loaded_api()
    if trace is None:
        yield CallSpan()
        return
    attributes = {"http.request.method": method, "url.path": path}
    with trace.get_tracer("vpsbackups_async").start_as_current_span(
        f"vpsbackups {kind}",
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        call = CallSpan(span)
        try:
            yield call
        except BaseException as error:
            name = type(error).__name__
            span.set_attribute("error.type", name)
            span.set_status(trace.Status(trace.StatusCode.ERROR, name))
            if isinstance(error, ApiError):
                call.answered(error.status)
            raise


def tag_attempt(number: int) -> None:
    """Set the number of repeats on the current span, which is the HTTP client's own, if any."""
    if number > 1 and (trace := _loaded_api()) is not None:
        trace.get_current_span().set_attribute(_RESENT, number - 1)


def _loaded_api() -> Any:
    """`opentelemetry.trace` if a tracer provider was set, else None."""
    return sys.modules["opentelemetry.trace"] if is_traced() else None
