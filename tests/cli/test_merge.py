"""Three servers, one of them lost: the commands that a person types, what they say and how they end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Deepfake
from tests.support import make_noise, stage_content

STAGES = ("extract-frames", "detect-faces")


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """Six pictures without a face."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    for number in range(6):
        (folder / f"{number}.png").write_bytes(make_noise(number))
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


def _arguments(stage: str, inputs: Path, work: Path, detector_file: Path) -> tuple[object, ...]:
    return {
        "extract-frames": ("extract-frames", inputs, "-w", work, "--frames", 1),
        "detect-faces": ("detect-faces", "-w", work, "--detector", detector_file),
    }[stage]


def test_a_run_without_a_shard_completes_a_stage_of_which_one_shard_of_three_is_lost(
    deepfake: Deepfake, inputs: Path, work: Path, detector_file: Path, tmp_path: Path
) -> None:
    for stage, noun in zip(STAGES, ("6 frames", "0 faces"), strict=True):
        arguments = _arguments(stage, inputs, work, detector_file)
        for shard in ("1/3", "3/3"):
            result = deepfake(*arguments, "--shard", shard)
            assert result.exit_code == 0 and result.stdout.startswith(f"{stage} {shard}: ")
        assert not (work / stage / "videos.parquet").exists()
        merged = deepfake(*arguments)
        assert merged.exit_code == 0
        assert merged.stdout.startswith(f"{stage}: 6 videos (6 ") and f"), {noun} in {work / stage}" in merged.stdout
        assert deepfake(*_arguments(stage, inputs, tmp_path / "whole", detector_file)).exit_code == 0
        assert stage_content(work / stage) == stage_content(tmp_path / "whole" / stage)


def test_scores_in_three_shards_with_one_lost(
    deepfake: Deepfake, inputs: Path, checkpoint: Path, tmp_path: Path
) -> None:
    files = [tmp_path / f"scores-{index}.csv" for index in (1, 2, 3)]
    predict = ("predict", inputs, "--checkpoint", checkpoint)
    for index, path in enumerate(files, start=1):
        assert deepfake(*predict, "--shard", f"{index}/3", "-o", path).exit_code == 0
    merge, output = ("merge", "-o", tmp_path / "scores.csv"), tmp_path / "scores.csv"
    lost = deepfake(*merge, *files[:2])
    assert (lost.exit_code, lost.stdout) == (2, "") and not output.exists()
    assert "error: of 3 shards these are not named: 3/3; name their files too" in lost.stderr
    merged = deepfake(*merge, *files)
    assert (merged.exit_code, merged.stdout, merged.stderr) == (0, "", f"6 rows in {output}\n")
    assert deepfake(*predict, "-o", tmp_path / "whole.csv").exit_code == 0
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert deepfake(*merge, *files, "-q").stderr == ""


def test_what_failed_in_a_shard_ends_with_3_after_the_merge_too(
    deepfake: Deepfake, inputs: Path, work: Path, checkpoint: Path, tmp_path: Path
) -> None:
    (inputs / "zero.png").write_bytes(b"")
    files = [tmp_path / f"scores-{index}.csv" for index in (1, 2)]
    extracted, scored = [], []
    for index, path in enumerate(files, start=1):
        shard = ("--shard", f"{index}/2")
        extracted.append(deepfake("extract-frames", inputs, "-w", work, *shard).exit_code)
        scored.append(deepfake("predict", inputs, "--checkpoint", checkpoint, "-o", path, *shard).exit_code)
    assert sorted(extracted) == sorted(scored) == [0, 3]
    for arguments in (("extract-frames", inputs, "-w", work), ("merge", *files, "-o", tmp_path / "scores.csv")):
        merged = deepfake(*arguments)
        assert merged.exit_code == 3
        assert "zero.png" in merged.stderr and "is empty (0 bytes); copy it again from its source" in merged.stderr


@pytest.mark.parametrize("command", ["extract-frames", "detect-faces", "predict"])
@pytest.mark.parametrize(
    ("shard", "message"),
    [
        ("x", "error: shard must be i/n, such as 2/3, got 'x'\n"),
        ("0/3", "error: shard must be i/n with i from 1 to n, got 0/3\n"),
        ("4/3", "error: shard must be i/n with i from 1 to n, got 4/3\n"),
    ],
)
def test_a_wrong_shard_ends_with_2(deepfake: Deepfake, work: Path, command: str, shard: str, message: str) -> None:
    result = deepfake(command, *([] if command == "predict" else ["-w", work]), "--shard", shard)
    assert (result.exit_code, result.stderr, result.stdout) == (2, message, "")


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [([], "SCORES"), (["a.csv"], "--output"), (["-o", "scores.csv"], "SCORES")],
)
def test_a_merge_needs_scores_and_an_output(deepfake: Deepfake, arguments: list[str], missing: str) -> None:
    result = deepfake("merge", *arguments)
    assert (result.exit_code, result.stdout) == (2, "") and "Missing" in result.stderr and missing in result.stderr
