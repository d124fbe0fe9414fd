"""Measurements: `python -m benchmarks` for `predict`, the scripts beside it for the rest. Not installed."""
