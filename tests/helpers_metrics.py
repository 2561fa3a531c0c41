"""The OpenTelemetry metrics of a test."""

from typing import Any

import pytest


class Metrics:
    """What was recorded so far; skips the test where OpenTelemetry is not installed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        api = pytest.importorskip("opentelemetry.metrics")
        sdk = pytest.importorskip("opentelemetry.sdk.metrics")
        export = pytest.importorskip("opentelemetry.sdk.metrics.export")
        self._reader = export.InMemoryMetricReader()
        self.provider = sdk.MeterProvider([self._reader])
        # The global provider can be set only once a process.
        monkeypatch.setattr(api, "get_meter_provider", lambda: self.provider)

    def all(self) -> dict[str, Any]:
        """The metrics by name."""
        data = self._reader.get_metrics_data()
        found = [] if data is None else data.resource_metrics
        scopes = [scope for resource in found for scope in resource.scope_metrics]
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def points(self, name: str) -> list[Any]:
        """The data points of a metric."""
        metric = self.all().get(name)
        return [] if metric is None else list(metric.data.data_points)

    def text(self) -> str:
        data = self._reader.get_metrics_data()
        return "" if data is None else str(data.to_json())
