"""The weights that come with the project, and what is known of those that do not: names, digests, licences."""

from __future__ import annotations

from weights.registry import REGISTRY, WeightsEntry, embedded_path, find_entry

__all__ = ["REGISTRY", "WeightsEntry", "embedded_path", "find_entry"]
