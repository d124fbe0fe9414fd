"""Compare weights files with their digests, and list the cache of pulled ones."""

from __future__ import annotations

import weights as registry
from pipelines.checkpoints.cache import cache_folder, is_pulled
from pipelines.checkpoints.weights_files import resolve_weights
from pipelines.diagnosis.finding import Finding
from pipelines.errors import CheckpointError
from weights import WeightsEntry

SHOWN_DIGITS = 12


def check_weights() -> list[Finding]:
    """Every known file: an embedded one must be whole, a pulled one should be."""
    return [_check_entry(entry) for entry in registry.REGISTRY.values()]


def check_cache() -> list[Finding]:
    """The folder of pulled weights and all files in it."""
    folder = cache_folder()
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    if not files:
        return [Finding("cache", "ok", f"{folder} (empty)")]
    listed = ", ".join(f"{file.relative_to(folder).as_posix()} {file.stat().st_size / 1e6:.1f} MB" for file in files)
    return [Finding("cache", "ok", f"{folder}: {listed}")]


def _check_entry(entry: WeightsEntry) -> Finding:
    if not entry.is_embedded and not is_pulled(entry):
        message = f"{entry.name} is not installed and not needed ({entry.description})"
        return Finding("weights", "note", message, f"deepfake weights pull {entry.name}" if entry.url else None)
    remedy = "install deepfake again" if entry.is_embedded else f"deepfake weights pull {entry.name}"
    try:
        file = resolve_weights(entry.name, kind=entry.kind)
    except CheckpointError as error:
        cause = str(error).rpartition("; ")[0]  # the remedy is shown separately
        return Finding("weights", "broken" if entry.is_embedded else "note", cause, remedy)
    return Finding("weights", "ok", f"{entry.name} {file.sha256[:SHOWN_DIGITS]}")
