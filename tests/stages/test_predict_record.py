"""A score can be traced: which settings stand behind a row's digest, and which versions computed it."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.scoring.score_files import read_scores
from pipelines.workspace.manifest import digest_json
from tests.conftest import Deepfake


def test_settings_and_versions_are_in_the_log_file_and_in_the_parquet(
    deepfake: Deepfake, checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    output, log_file = tmp_path / "scores.parquet", tmp_path / "log"
    result = deepfake("predict", clip, "--checkpoint", checkpoint, "-o", output, "--log-file", log_file, "--quiet")
    assert result.exit_code == 0, result.stderr
    record = json.loads(pq.read_schema(output).metadata[b"deepfake.run"])
    (row,) = read_scores(output)
    assert row.settings_sha256 == record["settings_sha256"] == digest_json(record["settings"])
    assert record["settings"]["checkpoint"] == row.model_sha256
    assert record["versions"]["python"] == platform.python_version()
    for package in ("torch", "timm", "av", "numpy"):
        assert record["versions"][package] == version(package)
    logged = next(line for line in log_file.read_text().splitlines() if "predict: {" in line)
    assert json.loads(logged[logged.index("{") :]) == record
    assert "settings_sha256" not in result.stderr
