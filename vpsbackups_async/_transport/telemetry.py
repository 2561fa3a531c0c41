"""One OpenTelemetry span per call, only where the application itself has set up OpenTelemetry.

This room never imports it: what is not loaded yet has no tracer provider either.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from vpsbackups_async.errors import ApiError

__all__ = ["CallSpan", "call_span", "is_traced", "tag_attempt"]

_RESENT: Final = "http.request.resend_count"


class CallSpan:
    """A call's span, or nothing where there is none."""

    __slots__ = ("_span",)

    def __init__(self, span: Any = None) -> None:
        self._span = span

    def sent(self, attempts: int) -> None:
        """Hear how many attempts the call took."""
        if self._span is not None and attempts > 1:
            self._span.set_attribute(_RESENT, attempts - 1)

    def answered(self, status: int) -> None:
        """Hear of the status of the answer that the call ends with."""
        if self._span is not None:
            self._span.set_attribute("http.response.status_code", status)


def is_traced() -> bool:
    """Whether the application has set up OpenTelemetry."""
    return _loaded_api() is not None


@contextmanager
def call_span(kind: str, method: str, path: str) -> Iterator[CallSpan]:
    """A span for one call (`list`, `create`, `delete`, `restore`) with all of its attempts.

    What is sent meanwhile becomes its children. It holds the method, the path without its query,
    the status, how often it was sent again, and the class of an error, not its words.
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
    """Note on the HTTP client's own span, if one is current, that the request is sent again."""
    if number > 1 and (trace := _loaded_api()) is not None:
        trace.get_current_span().set_attribute(_RESENT, number - 1)


def _loaded_api() -> Any:
    """`opentelemetry.trace` if a tracer provider was set, else None."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    return trace
