"""Measurements: `python -m benchmarks` for `predict`, the other scripts for the rest. Not installed."""
