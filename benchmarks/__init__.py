"""What the library promises to cost, measured: `python -m benchmarks` prints it all."""
