"""Faults for processes that tests start: this folder on PYTHONPATH makes them meet some."""
