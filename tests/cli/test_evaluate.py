"""`deepfake evaluate` and `deepfake calibrate` as they are typed: what they print, write and refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines import EvaluateConfig, PredictConfig, predict_faces
from pipelines.checkpoints.checkpoint import read_header
from pipelines.errors import ConfigError
from pipelines.system.file_digest import file_digest
from tests.conftest import Deepfake
from tests.evaluation.tables import (
    face_row,
    plant,
    score_row,
    write_details_folder,
    write_labels,
    write_planted,
    write_score_file,
)
from tests.support import make_noise, write_faces_parquet


@pytest.fixture
def planted(tmp_path: Path) -> tuple[Path, Path]:
    return write_planted(tmp_path, plant(60))


def _error_line(stderr: str) -> str:
    """The one line of an error; warnings may stand before it."""
    (line,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert all(each.startswith(("error: ", "warning: ")) for each in stderr.splitlines()), stderr
    return line


def test_the_table_is_printed_and_the_reports_are_written(
    deepfake: Deepfake, planted: tuple[Path, Path], tmp_path: Path
) -> None:
    scores, labels = planted
    outputs = [tmp_path / "r.json", tmp_path / "r.md"]
    result = deepfake("evaluate", scores, "--labels", labels, "-o", outputs[0], "-o", outputs[1], "--bootstrap", 20,
                      "--plots", tmp_path / "p", "--threshold", 0.4, "--confidence", 0.9, "--seed", 1)  # fmt: skip
    assert result.exit_code == 0, result.stderr
    found = json.loads(outputs[0].read_text("utf-8"))
    shown = f"{found['video.auc']:.3f} ({found['video.auc.low']:.3f} to {found['video.auc.high']:.3f})"
    assert f"AUC {shown}" in " ".join(result.stdout.split()) and f"| AUC | {shown} |" in outputs[1].read_text("utf-8")
    assert found["bootstrap"] == {"rounds": 20, "confidence": 0.9, "seed": 1} and found["threshold"] == 0.4
    assert [f"written: {path}" for path in (*outputs, tmp_path / "p")] == result.stderr.splitlines()[-3:]


def test_quiet_prints_the_table_only_where_nothing_is_written(
    deepfake: Deepfake, planted: tuple[Path, Path], tmp_path: Path
) -> None:
    common = ("evaluate", planted[0], "--labels", planted[1], "--bootstrap", 0, "-q")
    assert "What was measured" in deepfake(*common).stdout
    assert deepfake(*common, "-o", tmp_path / "r.json").stdout == ""


def test_a_workspace_is_scored_with_the_named_checkpoint_under_a_protocol(
    deepfake: Deepfake, imported_faces: Path, checkpoint: Path, tmp_path: Path
) -> None:
    result = deepfake("evaluate", imported_faces, "--checkpoint", checkpoint, "--protocol", "sbi", "--split", "all",
                      "--bootstrap", 0, "-o", tmp_path / "r.json", "--perturb", "faces",
                      "--perturbations", "blur, jpeg")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    found = json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert (found["protocol"]["name"], found["videos.scored"]) == ("sbi", 8)
    names = [row["perturbation"] for row in found["robustness"]]
    assert names == ["clean", *(f"jpeg {n}" for n in (90, 70, 50, 30)), *(f"blur {n}" for n in ("0.5", "1", "2", "3"))]
    assert "Robustness" in result.stdout and "protocol" in result.stdout
    rows = predict_faces(imported_faces, PredictConfig(checkpoint=str(checkpoint))).rows
    assert found["checkpoint_sha256"] == rows[0].model_sha256


def test_the_old_names_of_options_work_but_help_does_not_show_them(
    deepfake: Deepfake, imported_faces: Path, checkpoint: Path, tmp_path: Path
) -> None:
    result = deepfake("evaluate", imported_faces, "--checkpoint", checkpoint, "--split", "all", "--perturb", "faces",
                      "--rounds", 3, "--kinds", "blur", "--pictures", tmp_path / "p", "-o", tmp_path / "r.json")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    found = json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert found["bootstrap"]["rounds"] == 3 and (tmp_path / "p" / "roc.png").is_file()
    assert [row["perturbation"].split()[0] for row in found["robustness"]] == ["clean", *["blur"] * 4]
    text = deepfake("evaluate", "--help").stdout
    assert all(name in text for name in ("--bootstrap", "--perturbations", "--plots"))
    assert not any(name in text for name in ("--rounds", "--kinds", "--pictures"))


def test_after_training_the_measured_checkpoint_is_named_and_the_way_to_the_new_one(
    deepfake: Deepfake, imported_faces: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Path(shutil.copytree(imported_faces, tmp_path / "work"))
    best = work / "train" / "mine" / "best.safetensors"
    best.parent.mkdir(parents=True)
    shutil.copy(checkpoint, best)
    monkeypatch.setattr("pipelines.stages.evaluate.Loader", _stop)
    said = deepfake("evaluate", work).stderr
    assert f"measuring the checkpoint {EvaluateConfig.checkpoint}; " in said and f"pass: --checkpoint {best}" in said
    assert "measuring" not in deepfake("evaluate", work, "--checkpoint", best).stderr


def _stop(**_: Any) -> None:
    raise ConfigError("enough")


def test_control_characters_of_names_do_not_reach_the_terminal(deepfake: Deepfake, tmp_path: Path) -> None:
    said = [
        {"video": f"{n}.mp4", "label": "fake" if n % 2 else "real", "dataset": f"\x1b[31m{n // 2}"} for n in range(4)
    ]
    scores = write_score_file(tmp_path / "s.csv", [score_row(row["video"], 0.5) for row in said])
    result = deepfake("evaluate", scores, "--labels", write_labels(tmp_path / "l.csv", said), "--bootstrap", 0)
    assert result.exit_code == 0 and "\x1b" not in result.stdout and "\\x1b[31m0" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["evaluate", "nothing.csv"],
            "nothing.csv does not exist; pass scores (.csv, .parquet, .json), a --details folder",
        ),
        (["evaluate", "TEXT"], "is not a readable Parquet file"),
        (["evaluate", "EMPTY"], "is not a readable table of scores"),
        (["evaluate", "FOLDER"], "holds neither a detect-faces stage nor details of predict; pass scores"),
        (["evaluate", "SCORES"], "nothing says which videos are real; pass --labels with a CSV (video,label)"),
        (["evaluate", "SCORES", "--labels", "TEXT"], "lacks the column 'label'; it needs video,label"),
        (["evaluate", "SCORES", "--labels", "nothing.csv"], "nothing.csv is not a readable CSV file"),
        (
            ["evaluate", "SCORES", "--labels", "LABELS", "-o", "report.txt"],
            "report.txt must be a file that ends in .json",
        ),
        (
            ["evaluate", "SCORES", "--labels", "LABELS", "--protocol", "paper"],
            "--protocol needs the faces of every frame",
        ),
        (
            ["evaluate", "SCORES", "--labels", "LABELS", "--aggregate", "mean"],
            "--aggregate needs the faces of every frame",
        ),
        (["evaluate", "SCORES", "--labels", "LABELS", "--perturb", "faces"], "--perturb scores again, which"),
        (["evaluate", "SCORES", "--labels", "LABELS", "--checkpoint", "x"], "--checkpoint has no effect on"),
        (
            ["evaluate", "DETAILS", "--labels", "LABELS", "--protocol", "sbi", "--aggregate", "mean"],
            "cannot be combined with a protocol",
        ),
        (["evaluate", "SCORES", "--labels", "LABELS", "--split", "val"], "has a label of the split val"),
        (["evaluate", "SCORES", "--labels", "LABELS", "--threshold", "2"], "threshold must be in [0, 1], got 2.0"),
        (["evaluate", "CROPS", "--perturb", "videos"], "holds faces without their videos; pass --perturb faces"),
        (
            ["evaluate", "CROPS", "--perturb", "faces", "--perturbations", "rain"],
            "unknown perturbation 'rain'; known: jpeg, h264",
        ),
        (
            ["evaluate", "SCORES", "--labels", "LABELS", "--perturbations", "rain"],
            "--perturbations has no effect without --perturb",
        ),
        (["evaluate", "SCORES", "--labels", "LABELS", "--plots", "LABELS"], "is a file; name a folder"),
        (["calibrate", "SCORES", "-o", "FOLDER"], "is a folder; name a file that ends in .safetensors"),
        (["evaluate", "CROPS", "--checkpoint", "nothing"], "nothing is neither a file nor a known checkpoint"),
        (["calibrate", "SCORES", "-o", "LABELS"], "exists; pass --overwrite to replace it, or choose another name"),
        (["calibrate", "SCORES", "-o", "out.pt"], "out.pt must end in .safetensors"),
        (
            ["calibrate", "SCORES", "-o", "o.safetensors", "--checkpoint", "nothing"],
            "nothing is neither a file nor a known",
        ),
        (
            ["calibrate", "SCORES", "-o", "o.safetensors", "--target-fpr", "0"],
            "target_fpr must be between 0 and 1, got 0.0",
        ),
        (["calibrate", "SCORES", "-o", "o.safetensors", "--labels", "LABELS"], "was not made by"),
        (
            ["calibrate", "MADE", "-o", "o.safetensors", "--labels", "LABELS"],
            "made.csv does not say how face scores became video scores",
        ),
        (
            ["calibrate", "MADE", "-o", "o.safetensors", "--labels", "LABELS", "--aggregate", "mean"],
            "real videos are too few for a target_fpr",
        ),
    ],
)
def test_wrong_use_is_one_line_with_the_remedy_and_exit_2(
    deepfake: Deepfake,
    planted: tuple[Path, Path],
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "text.txt").write_text("no table at all")
    made = [score_row(video, p, model_sha256=file_digest(checkpoint)) for video, _, p in plant(60)]
    places = {
        "SCORES": planted[0],
        "LABELS": planted[1],
        "FOLDER": "folder",
        "EMPTY": "empty.csv",
        "TEXT": "text.txt",
        "MADE": write_score_file(tmp_path / "made.csv", made),
        "DETAILS": write_details_folder(tmp_path / "details", [face_row("0000.mp4", 0, 0.5)]),
        "CROPS": write_faces_parquet(
            tmp_path / "c.parquet",
            [{"image": make_noise(n), "video": str(n), "label": label} for n, label in enumerate(("real", "fake"))],
        ),
    }
    given = [places.get(argument, argument) for argument in arguments]
    if arguments[0] == "calibrate" and "--checkpoint" not in arguments:
        given += ["--checkpoint", checkpoint]
    result = deepfake(*given)
    assert result.exit_code == 2, (result.stdout, result.stderr)
    assert message in _error_line(result.stderr) and result.stdout == ""
    assert not (tmp_path / "o.safetensors").exists()


def test_the_stem_collision_of_ffpp_is_one_line_that_names_both(deepfake: Deepfake, tmp_path: Path) -> None:
    scores = write_score_file(tmp_path / "s.csv", [score_row("071_054.mp4", 0.9)])
    videos = [f"manipulated_sequences/{method}/c23/videos/071_054.mp4" for method in ("Deepfakes", "FaceSwap")]
    result = deepfake("evaluate", scores, "--labels", write_labels(tmp_path / "l.csv", [(v, "fake") for v in videos]))
    line = _error_line(result.stderr)
    assert result.exit_code == 2 and all(video in line for video in videos)


def test_calibrate_says_what_it_fitted_and_writes_the_copy(
    deepfake: Deepfake, checkpoint: Path, tmp_path: Path
) -> None:
    planted = plant(300, sharpness=3)
    scores, labels = write_planted(tmp_path, planted, model_sha256=file_digest(checkpoint))
    output = tmp_path / "calibrated.safetensors"
    common = ("calibrate", scores, "--labels", labels, "--checkpoint", checkpoint, "-o", output, "--aggregate", "mean")
    result = deepfake(*common, "--target-fpr", 0.05, "--target-fnr", 0.1, "--method", "isotonic")
    assert result.exit_code == 0, result.stderr
    first, second, *_ = result.stdout.splitlines()
    assert first.startswith(f"{output}: isotonic, ") and "expected calibration error: " in second
    header = read_header(output)
    assert header.calibration is not None
    assert (header.calibration["target_fpr"], header.calibration["target_fnr"]) == (0.05, 0.1)
    result = deepfake(*common, "--target-fpr", 0.05, "--overwrite", "-q", "--aggregate", "mean")
    assert (result.exit_code, result.stdout) == (0, "")
    assert (read_header(output).calibration or {})["aggregate"] == "mean"
