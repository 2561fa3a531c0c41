"""Measurements of what the library costs, against targets: run `python -m benchmarks`."""
