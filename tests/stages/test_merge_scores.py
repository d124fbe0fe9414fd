"""Scores made in shards are, merged, the file of one run; what is lost, changed or foreign is refused by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines import PredictConfig, RunOptions, Shard, merge_scores, predict, predict_faces
from pipelines.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from pipelines.errors import ConfigError
from pipelines.models import build_model
from pipelines.records import ScoreRow
from pipelines.scoring.score_files import read_scores
from tests.support import encode_png, file_contents, make_noise, statuses, temporary_files

THREE = [Shard(index, 3) for index in (1, 2, 3)]


@pytest.fixture(scope="module")
def config(checkpoint: Path) -> PredictConfig:
    return PredictConfig(checkpoint=str(checkpoint))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, face_pictures: dict[str, Any]) -> list[Path]:
    """A folder with a face, noise, a copy and an empty file; and a file that is not there."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "face.png").write_bytes(encode_png(face_pictures["real"][0]))
    for number in range(5):
        (folder / f"noise{number}.png").write_bytes(make_noise(number))
    shutil.copy(folder / "face.png", folder / "a copy.png")
    (folder / "zero.png").write_bytes(b"")
    return [folder, folder / "missing.mp4"]


def _score(inputs: list[Path], config: PredictConfig, folder: Path, *shards: Shard, suffix: str = ".csv") -> list[Path]:
    outputs = [folder / f"scores-{shard.index}{suffix}" for shard in shards]
    for shard, output in zip(shards, outputs, strict=True):
        predict(inputs, config, RunOptions(shard=shard), output=output)
    return outputs


@pytest.fixture(scope="module")
def whole(inputs: list[Path], config: PredictConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scores of one run over everything."""
    output = tmp_path_factory.mktemp("whole") / "scores.csv"
    predict(inputs, config, output=output)
    return output


@pytest.fixture(scope="module")
def made(inputs: list[Path], config: PredictConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three files of three shards, each with its note."""
    folder = tmp_path_factory.mktemp("made")
    _score(inputs, config, folder, *THREE)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "shards"))


@pytest.fixture
def files(folder: Path) -> list[Path]:
    return [folder / f"scores-{index}.csv" for index in (1, 2, 3)]


def _note(scores: Path) -> Path:
    return scores.with_name(f"{scores.name}.shard")


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json"])
def test_three_shards_merged_are_the_file_of_one_run(
    inputs: list[Path], config: PredictConfig, tmp_path: Path, suffix: str
) -> None:
    files = _score(inputs, config, tmp_path, *THREE, suffix=suffix)
    assert [len(read_scores(path)) < 9 for path in files] == [True] * 3
    merged = merge_scores(files[::-1], tmp_path / f"merged{suffix}")
    whole = predict(inputs, config, output=tmp_path / f"whole{suffix}")
    assert merged.rows == whole.rows and merged.failures == whole.failures
    assert (tmp_path / f"merged{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    assert set(statuses(merged.failures)) == {"zero.png", "missing.mp4"}
    assert temporary_files(tmp_path) == []


def test_files_of_different_formats_are_merged_into_any_format(
    files: list[Path], inputs: list[Path], config: PredictConfig, whole: Path, tmp_path: Path
) -> None:
    (parquet,) = _score(inputs, config, tmp_path, THREE[0], suffix=".parquet")
    merge_scores([parquet, *files[1:]], tmp_path / "all.json")
    assert read_scores(tmp_path / "all.json") == read_scores(whole)


def test_faces_of_a_workspace_are_scored_in_shards(
    faces_workspace: Path, config: PredictConfig, tmp_path: Path
) -> None:
    shards = [Shard(index, 2) for index in (1, 2)]
    files = [tmp_path / f"{shard.index}.csv" for shard in shards]
    for shard, path in zip(shards, files, strict=True):
        predict_faces(faces_workspace, config, RunOptions(shard=shard), output=path)
    predict_faces(faces_workspace, config, output=tmp_path / "whole.csv")
    merge_scores(files, tmp_path / "merged.csv")
    assert (tmp_path / "merged.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_more_shards_than_videos_leave_files_without_rows(
    inputs: list[Path], config: PredictConfig, whole: Path, tmp_path: Path
) -> None:
    files = _score(inputs, config, tmp_path, *(Shard(index, 12) for index in range(1, 13)))
    assert [] in [read_scores(path) for path in files]
    merge_scores(files, tmp_path / "merged.csv")
    assert (tmp_path / "merged.csv").read_bytes() == whole.read_bytes()


def test_a_shard_scores_its_videos_alone_and_needs_no_output(
    files: list[Path], inputs: list[Path], config: PredictConfig
) -> None:
    for shard, path in zip(THREE, files, strict=True):
        assert predict(inputs, config, RunOptions(shard=shard)).rows == read_scores(path)


def test_a_shard_that_was_interrupted_goes_on(
    files: list[Path], inputs: list[Path], config: PredictConfig, tmp_path: Path
) -> None:
    def interrupt(_row: ScoreRow) -> None:
        raise KeyboardInterrupt

    shard = max(THREE, key=lambda each: len(read_scores(files[each.index - 1])))
    output = tmp_path / "scores.csv"
    with pytest.raises(KeyboardInterrupt):
        predict(inputs, config, RunOptions(shard=shard), output=output, on_row=interrupt)
    assert not output.exists() and not _note(output).exists()
    predict(inputs, config, RunOptions(shard=shard), output=output)
    assert output.read_bytes() == files[shard.index - 1].read_bytes()
    assert _note(output).read_bytes() == _note(files[shard.index - 1]).read_bytes()


Change = Callable[[list[Path]], list[Path]]
"""What befalls three files before they are merged, and which are named then."""


def _edit(path: Path) -> None:
    path.write_text(path.read_text("utf-8").replace("no_face", "ok"), "utf-8")


def _after(change: Callable[[list[Path]], object]) -> Change:
    def changed(files: list[Path]) -> list[Path]:
        change(files)
        return files

    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files[::2], "of 3 shards these are not named: 2/3; .* deepfake predict … --shard 2/3 -o FILE"),
        (lambda files: files[:1], "of 3 shards these are not named: 2/3, 3/3; name their files too"),
        (lambda files: [*files, files[0]], "scores-1.csv and .*scores-1.csv are both shard 1/3; name each shard once"),
        (lambda files: [], "no scores to merge; name the file of every shard"),
        (
            _after(lambda files: files[1].unlink()),
            "scores-2.csv does not exist; make it with: deepfake predict … --shard",
        ),
        (
            _after(lambda files: _note(files[1]).unlink()),
            "scores-2.csv.shard is missing: copy it along with scores-2.csv",
        ),
        (_after(lambda files: _note(files[1]).write_text("{")), "scores-2.csv.shard is damaged; run again"),
        (_after(lambda files: _note(files[1]).write_text("[]")), "scores-2.csv.shard is damaged; run again"),
        (_after(lambda files: [_edit(path) for path in files]), r"\d.csv is not the file that scores-\d.csv.shard was"),
        (
            _after(lambda files: shutil.copy(_note(files[0]), _note(files[1]))),
            "-2.csv is not the file that .* written for",
        ),
    ],
)
def test_what_is_lost_or_changed_is_refused_and_nothing_is_written(
    files: list[Path], folder: Path, change: Change, message: str
) -> None:
    named = change(files)
    before = file_contents(folder, ".csv", ".shard")
    with pytest.raises(ConfigError, match=message):
        merge_scores(named, folder / "merged.csv")
    assert file_contents(folder, ".csv", ".shard") == before


@pytest.mark.parametrize("index", [0, 2])
@pytest.mark.parametrize("what", ["settings", "weights", "inputs", "number"])
def test_scores_that_do_not_belong_together_are_refused(
    files: list[Path],
    inputs: list[Path],
    config: PredictConfig,
    checkpoint: Path,
    tmp_path: Path,
    what: str,
    index: int,
) -> None:
    message = f"scores-1.csv and .*scores-{3 if index else 2}.csv were made with different {what}"
    shard = THREE[index]
    if what == "settings":
        config = replace(config, min_frames=2)
    elif what == "weights":
        loaded = load_checkpoint(str(checkpoint), build_model)
        other = {name: value * 1.5 for name, value in loaded.network.state_dict().items()}
        save_checkpoint(tmp_path / "other.safetensors", other, loaded.header)
        config = replace(config, checkpoint=str(tmp_path / "other.safetensors"))
    elif what == "inputs":
        inputs = inputs[:1]
        message = r"the shards 1/3 and [23]/3 were given different inputs \([89] and [89] videos"
    else:
        shard = Shard(shard.index, 4)
        message = r"-1.csv is one of [34] shards and .*-\d.csv is \d/[34]; name the shards of one n"
    files[index].unlink()
    predict(inputs, config, RunOptions(shard=shard), output=files[index])
    with pytest.raises(ConfigError, match=message):
        merge_scores(files, tmp_path / "merged.csv")
    assert not (tmp_path / "merged.csv").exists()


def test_an_output_of_the_same_scores_is_written_again_and_one_of_others_is_not(
    files: list[Path], whole: Path, config: PredictConfig, inputs: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "merged.csv"
    merge_scores(files, output)
    merge_scores(files, output)
    assert output.read_bytes() == whole.read_bytes()
    predict([inputs[0]], replace(config, min_frames=2), RunOptions(overwrite=True), output=output)
    before = output.read_bytes()
    with pytest.raises(ConfigError, match="made with another checkpoint or other settings; .* pass --overwrite"):
        merge_scores(files, output)
    assert output.read_bytes() == before
    merge_scores(files, output, overwrite=True)
    assert output.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("name", "message"),
    [("scores-2.csv", "scores-2.csv is one of the shards; choose another output"), ("all.txt", "must end in .csv")],
)
def test_an_output_that_can_not_be_one_is_refused(files: list[Path], folder: Path, name: str, message: str) -> None:
    before = file_contents(folder, ".csv")
    with pytest.raises(ConfigError, match=message):
        merge_scores(files, folder / name)
    assert file_contents(folder, ".csv") == before


def test_scores_of_everything_have_no_note(
    files: list[Path], inputs: list[Path], config: PredictConfig, tmp_path: Path
) -> None:
    predict(inputs, config, output=files[0])
    assert not _note(files[0]).exists()
    shutil.copy(_note(files[1]), _note(tmp_path / "merged.csv"))
    files = _score(inputs, config, tmp_path, Shard(1, 1))
    merge_scores(files, tmp_path / "merged.csv")
    assert not _note(tmp_path / "merged.csv").exists()


def test_a_shard_does_not_replace_the_scores_of_another(
    files: list[Path], inputs: list[Path], config: PredictConfig
) -> None:
    before = files[0].read_bytes()
    with pytest.raises(ConfigError, match=r"holds scores of \d videos that are not among the inputs"):
        predict(inputs, config, RunOptions(shard=THREE[1]), output=files[0])
    assert files[0].read_bytes() == before
