"""`inspect`: contents and provenance of a manifest or checkpoint. Does not import torch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

import weights
from pipelines.checkpoints.checkpoint import read_header
from pipelines.errors import ConfigError
from pipelines.records import ScoreRow, schema_of
from pipelines.system.file_digest import file_digest
from pipelines.workspace.manifest import read_provenance, read_table

if TYPE_CHECKING:
    import pandas as pd

COUNTED_COLUMNS = ("status", "label", "split", "phase", "verdict")


@dataclass(frozen=True)
class Inspection:
    """Facts about one file."""

    path: Path
    kind: str
    """`manifest`, `scores`, `checkpoint` or `detector`."""
    facts: dict[str, Any]


def inspect(path: Path | str) -> Inspection:
    """Facts about a Parquet manifest or part, a workspace's stage folder, a checkpoint file or a registry name.

    Raises:
        ConfigError: missing, or of an unknown kind.
    """
    entry = weights.find_entry(str(path))
    if entry is not None and entry.is_embedded:
        embedded = weights.embedded_path(entry)
        if entry.kind == "checkpoint":
            return _inspect_checkpoint(embedded)
        facts = {"bytes": embedded.stat().st_size, "sha256": file_digest(embedded), "description": entry.description}
        return Inspection(embedded, "detector", {**facts, "licence": entry.licence})
    path = Path(path)
    if path.is_dir():
        manifest = next(
            (path / name for name in ("manifest.parquet", "videos.parquet") if (path / name).is_file()), None
        )
        if manifest is None:
            raise ConfigError(f"{path} holds no manifest; name a stage's folder, a .parquet or a checkpoint")
        return _inspect_manifest(manifest)
    if not path.is_file():
        raise ConfigError(
            f"{path} does not exist; name a manifest (.parquet), a checkpoint (.safetensors) or its registry name"
        )
    if path.suffix == ".parquet":
        return _inspect_manifest(path)
    return _inspect_checkpoint(path)


def read_manifest(path: Path | str) -> pd.DataFrame:
    """A manifest, part or Parquet of scores as a pandas table, for notebooks.

    Raises:
        ManifestError: missing, or not a readable Parquet file.
    """
    table: pd.DataFrame = read_table(Path(path)).to_pandas()
    return table


def _inspect_manifest(path: Path) -> Inspection:
    table = read_table(path)
    is_scores = table.column_names == schema_of(ScoreRow).names
    provenance = None if is_scores else read_provenance(path)
    facts: dict[str, Any] = {
        "rows": table.num_rows,
        "columns": {field.name: str(field.type) for field in pq.read_schema(path)},
    }
    if "video_id" in table.column_names:
        facts["videos"] = len(set(map(str, table.column("video_id").to_pylist())))
    for name in COUNTED_COLUMNS:
        if name in table.column_names:
            counts = Counter(str(value) for value in table.column(name).to_pylist() if value is not None)
            facts[f"by {name}"] = dict(sorted(counts.items()))
    if "mask_path" in table.column_names:
        facts["masks"] = table.num_rows - table.column("mask_path").null_count
    if provenance is None:
        return Inspection(path, "scores", facts)
    facts["provenance"] = provenance.to_json()
    return Inspection(path, "manifest", facts)


def _inspect_checkpoint(path: Path) -> Inspection:
    header = read_header(path)
    return Inspection(
        path, "checkpoint", {"bytes": path.stat().st_size, "sha256": file_digest(path), **header.to_json()}
    )
