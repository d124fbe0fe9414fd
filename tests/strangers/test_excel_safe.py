"""`--excel-safe`: no cell of a CSV passes for a formula, and reading gives every name back, with the option or without."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.evaluation.reading import read_score_file
from pipelines.records import ScoreRow
from pipelines.scoring.score_files import read_scores, write_scores
from tests.conftest import Deepfake
from tests.strangers.tampering import error_line
from tests.synthetic import write_video

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""As in OWASP's page on CSV injection; a name in `NAMES` begins with each."""
DIGEST = "0" * 64
ROW = ScoreRow("a.mp4", "a", DIGEST, "ok", 0.25, "real", 0.5, 4, 4, 1, "m", DIGEST, DIGEST, None)
NAMES = [
    "=cmd|'/c calc'!A1.mp4", "-x.mp4", "@a.mp4", "'=x.mp4", "''=x.mp4", "+1.mp4", "\t=1.mp4", "\r=1.mp4", "\n=1.mp4", "'a.mp4",
    "'", "''", "a=b.mp4", "'-", "=", "", " =a.mp4", 'a,"b".mp4', "\udce9-latin.mp4", "=\udce9.mp4", "é.mp4", "-1", "0.5",
]  # fmt: skip


def _cells(path: Path) -> list[dict[str, str]]:
    """As another program reads them."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("excel_safe", [False, True])
@pytest.mark.parametrize("column", ["video", "video_key", "model", "error"])
def test_every_name_is_read_back_as_it_was(tmp_path: Path, column: str, excel_safe: bool) -> None:
    rows = [replace(ROW, **{column: name}) for name in NAMES]
    write_scores(tmp_path / "scores.csv", rows, excel_safe=excel_safe)
    read = [getattr(row, column) for row in read_scores(tmp_path / "scores.csv")]
    assert read == [None if column == "error" and name == "" else name for name in NAMES]


@pytest.mark.parametrize("excel_safe", [False, True])
def test_evaluate_reads_the_same_names(tmp_path: Path, excel_safe: bool) -> None:
    write_scores(tmp_path / "scores.csv", [replace(ROW, video=name) for name in NAMES], excel_safe=excel_safe)
    assert read_score_file(tmp_path / "scores.csv").videos == NAMES


def test_no_cell_passes_for_a_formula_and_numbers_stay_numbers(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    rows = [replace(ROW, video=name, video_key=name, error=name, fake_probability=1e-5) for name in NAMES]
    write_scores(path, rows, excel_safe=True)
    for name, cells in zip(NAMES, _cells(path), strict=True):
        assert not any(cell.startswith(FORMULA_STARTS) for cell in cells.values())
        assert cells["video"].removeprefix("'") == name or cells["video"] == name
        assert (cells["fake_probability"], cells["threshold"], cells["frames"]) == ("1e-05", "0.5", "4")
    write_scores(path, rows)
    plain = {name: cells["video"] for name, cells in zip(NAMES, _cells(path), strict=True)}
    assert plain["-x.mp4"] == "-x.mp4" and plain["=cmd|'/c calc'!A1.mp4"] == "=cmd|'/c calc'!A1.mp4"


def test_a_negative_number_is_no_formula(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.csv", [replace(ROW, frames=-1)], excel_safe=True)
    assert _cells(tmp_path / "scores.csv")[0]["frames"] == "-1"


@pytest.fixture
def videos(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "videos"
    folder.mkdir()
    names = ["=cmd|'calc'!A1.mp4", "-x.mp4", "'=x.mp4", "plain.mp4"]
    for number, name in enumerate(names):
        write_video(tmp_path / "video.mp4", num_frames=3 + number, size=(64, 48)).rename(folder / name)
    return [Path(name) for name in names]


def test_a_batch_goes_on_after_it_and_scores_what_is_new_only(
    deepfake: Deepfake, videos: list[Path], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "videos")
    arguments = ["--checkpoint", checkpoint, "-o", tmp_path / "s.csv", "--excel-safe"]
    first = deepfake("predict", *arguments, "--", *videos[:3])
    assert first.exit_code == 0, first.stderr
    assert [cells["video"] for cells in _cells(tmp_path / "s.csv")] == [
        "''=x.mp4", "'-x.mp4", "'=cmd|'calc'!A1.mp4"]  # fmt: skip
    again = deepfake("predict", *arguments, "--", *videos)
    assert again.exit_code == 0 and "3 videos scored before with the same settings" in again.stderr
    without = deepfake("predict", *arguments[:-1], "--", *videos)
    assert "4 videos scored before" in without.stderr
    assert [row.video for row in read_scores(tmp_path / "s.csv")] == sorted(map(str, videos))


def test_evaluate_joins_its_scores_with_labels_by_path(deepfake: Deepfake, videos: list[Path], tmp_path: Path) -> None:
    rows = [replace(ROW, video=f"{name}", video_key="", sha256=f"{n}" * 64, fake_probability=n / 4, error="-")
            for n, name in enumerate(videos)]  # fmt: skip
    write_scores(tmp_path / "s.csv", rows, excel_safe=True)
    labels = "".join(f"{name},{'real' if n < 2 else 'fake'}\n" for n, name in enumerate(videos))
    (tmp_path / "labels.csv").write_text("video,label\n" + labels)
    result = deepfake("evaluate", tmp_path / "s.csv", "--labels", tmp_path / "labels.csv", "--bootstrap", 0)
    assert result.exit_code == 0 and result.stderr == ""


def test_shards_are_merged_into_it(
    deepfake: Deepfake, videos: list[Path], checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "videos")
    shards = [tmp_path / f"{n}.csv" for n in (1, 2)]
    for number, path in enumerate(shards, start=1):
        arguments = ["--checkpoint", checkpoint, "-o", path, "--shard", f"{number}/2", "--excel-safe"]
        assert deepfake("predict", *arguments, "--", *videos).exit_code == 0
    assert deepfake("merge", *shards, "-o", tmp_path / "all.csv", "--excel-safe").exit_code == 0
    assert deepfake("merge", *shards, "-o", tmp_path / "plain.csv").exit_code == 0
    safe, plain = _cells(tmp_path / "all.csv"), _cells(tmp_path / "plain.csv")
    assert [cells["video"] for cells in safe] == ["''=x.mp4", "'-x.mp4", "'=cmd|'calc'!A1.mp4", "plain.mp4"]
    assert [cells["video"] for cells in plain] == ["''=x.mp4", "-x.mp4", "=cmd|'calc'!A1.mp4", "plain.mp4"]
    assert read_scores(tmp_path / "all.csv") == read_scores(tmp_path / "plain.csv")
    with_option = deepfake("merge", *shards, "-o", tmp_path / "all.json", "--excel-safe")
    assert "--excel-safe is for an output that ends in .csv" in error_line(with_option)


@pytest.mark.parametrize("output", [["-o", "s.parquet"], ["-o", "s.json"], []])
def test_it_is_refused_where_there_is_no_csv(
    deepfake: Deepfake, clip: Path, checkpoint: Path, tmp_path: Path, output: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = deepfake("predict", shutil.copy(clip, tmp_path), "--checkpoint", checkpoint, "--excel-safe", *output)
    assert "--excel-safe is for an output that ends in .csv; name one with -o, or leave" in error_line(result)
    assert [path.name for path in tmp_path.iterdir()] == [clip.name]
