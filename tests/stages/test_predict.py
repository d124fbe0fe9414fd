"""`predict` gives every input one row, the same by either path, and goes on where an interruption left it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines import (
    DetectConfig,
    ExtractConfig,
    ImportConfig,
    PredictConfig,
    RunOptions,
    detect_faces,
    extract_frames,
    import_faces,
    predict,
    predict_faces,
)
from pipelines.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from pipelines.errors import CheckpointError, ConfigError, ManifestError, StorageError
from pipelines.models import build_model
from pipelines.records import FaceScoreRow, ScoreRow, schema_of
from pipelines.scoring.aggregate import aggregate_video
from pipelines.scoring.score_files import read_scores
from pipelines.system.file_digest import file_digest
from pipelines.workspace.manifest import read_provenance
from tests.support import encode_png, make_noise, statuses, temporary_files, write_faces_parquet
from tests.synthetic import write_video

COLUMNS = [
    "video", "video_key", "sha256", "status", "fake_probability", "verdict", "threshold", "frames", "faces", "tracks",
    "model", "model_sha256", "settings_sha256", "error",
]  # fmt: skip


@pytest.fixture
def config(checkpoint: Path) -> PredictConfig:
    return PredictConfig(checkpoint=str(checkpoint))


@pytest.fixture(scope="module")
def direct_rows(checkpoint: Path, clip: Path, forged_clip: Path) -> dict[str, ScoreRow]:
    """The scores of both clips, undisturbed."""
    summary = predict([clip, forged_clip], PredictConfig(checkpoint=str(checkpoint)))
    return {row.video_key: row for row in summary.rows}


@pytest.fixture
def pictures(tmp_path: Path, face_pictures: dict[str, Any]) -> Path:
    """Four pictures with a face and one without."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, picture in enumerate(face_pictures["real"]):
        (folder / f"{number}.png").write_bytes(encode_png(picture))
    (folder / "noise.png").write_bytes(make_noise(0))
    return folder


def _probabilities(rows: list[ScoreRow]) -> list[float | None]:
    return [row.fake_probability for row in rows]


def test_a_clip_gets_a_row_that_says_how_it_came_about(
    direct_rows: dict[str, ScoreRow], checkpoint: Path, clip: Path
) -> None:
    assert schema_of(ScoreRow).names == COLUMNS
    row = direct_rows["astronaut"]
    assert (row.video, row.status, row.frames, row.faces, row.tracks) == (clip.as_posix(), "ok", 4, 4, 1)
    assert (row.sha256, row.model, row.model_sha256) == (
        file_digest(clip), checkpoint.name, file_digest(checkpoint)
    )  # fmt: skip
    assert row.fake_probability is not None and 0 < row.fake_probability < 1
    assert row.verdict == ("fake" if row.fake_probability >= row.threshold else "real")
    assert row.error is None and len(row.settings_sha256) == 64
    # ten times the tolerance of the tests below: mixed-up frames or crops would show
    other = direct_rows["astronaut-forged"]
    assert other.fake_probability is not None
    assert abs(other.fake_probability - row.fake_probability) > 1e-3


def test_staged_and_direct_scores_agree(
    faces_workspace: Path, config: PredictConfig, direct_rows: dict[str, ScoreRow], tmp_path: Path
) -> None:
    summary = predict_faces(faces_workspace, config, details=tmp_path / "staged")
    assert len(summary.rows) == 2
    for row in summary.rows:
        direct = direct_rows[row.video_key]
        assert row.fake_probability == pytest.approx(direct.fake_probability, abs=1e-4)
        for name in ("video", "sha256", "status", "verdict", "frames", "faces", "tracks", "model_sha256"):
            assert getattr(row, name) == getattr(direct, name)
    predict([row.video for row in summary.rows], config, details=tmp_path / "direct")
    for path in (tmp_path / "staged").iterdir():
        staged = pq.read_table(path).to_pylist()
        direct_faces = pq.read_table(tmp_path / "direct" / path.name).to_pylist()
        assert [face["frame_index"] for face in staged] == [face["frame_index"] for face in direct_faces]
        for one, two in zip(staged, direct_faces, strict=True):
            assert one["fake_probability"] == pytest.approx(two["fake_probability"], abs=1e-4)


def test_staged_and_direct_rows_agree_also_without_a_face(
    config: PredictConfig, detector_file: Path, tmp_path: Path
) -> None:
    videos = [
        write_video(tmp_path / "still.mp4", num_frames=6),
        tmp_path / "empty.mp4",
        write_video(tmp_path / "cut.mkv", num_frames=80),
    ]
    (tmp_path / "empty.mp4").write_bytes(b"")
    videos[2].write_bytes(videos[2].read_bytes()[: videos[2].stat().st_size // 2])
    extract_frames(videos, tmp_path / "work", ExtractConfig(frames=4))
    detect_faces(tmp_path / "work", DetectConfig(detector=str(detector_file)))
    staged = predict_faces(tmp_path / "work", config).rows
    direct = predict(videos, config).rows
    assert statuses(direct) == {"still.mp4": "no_face", "empty.mp4": "unreadable", "cut.mkv": "no_face"}
    for one, two in zip(staged, direct, strict=True):
        assert replace(one, settings_sha256="") == replace(two, settings_sha256="")


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_batch_size_changes_no_score(
    config: PredictConfig, direct_rows: dict[str, ScoreRow], clip: Path, faces_workspace: Path, batch_size: int
) -> None:
    options = RunOptions(batch_size=batch_size)
    expected = direct_rows["astronaut"].fake_probability
    assert predict(clip, config, options).rows[0].fake_probability == pytest.approx(expected, abs=1e-5)
    staged = predict_faces(faces_workspace, config, options).rows
    assert {row.video_key: row.fake_probability for row in staged}["astronaut"] == pytest.approx(expected, abs=1e-4)


def test_a_video_is_scored_the_same_whatever_stands_beside_it(
    config: PredictConfig, direct_rows: dict[str, ScoreRow], forged_clip: Path
) -> None:
    assert predict(forged_clip, config).rows == [direct_rows["astronaut-forged"]]


def test_a_picture_is_a_video_of_one_frame(config: PredictConfig, pictures: Path) -> None:
    rows = predict([pictures], config).rows
    assert statuses(rows) == {f"{n}.png": "ok" for n in range(4)} | {"noise.png": "no_face"}
    assert {(row.frames, row.faces) for row in rows if row.status == "ok"} == {(1, 1)}
    assert rows[-1].fake_probability is None and rows[-1].verdict is None and rows[-1].frames == 1


def test_faces_that_are_too_small_to_be_wanted_are_left_out(
    config: PredictConfig, direct_rows: dict[str, ScoreRow], clip: Path
) -> None:
    """The face is about 150 px wide; for one of 30 px the network sees the whole frame."""
    same, none = (predict(clip, replace(config, min_face_px=px)).rows[0] for px in (30, 400))
    row = direct_rows["astronaut"]
    assert (same.status, same.fake_probability) == ("ok", row.fake_probability)
    assert (none.status, none.faces) == ("no_face", 0)
    assert len({row.settings_sha256, same.settings_sha256, none.settings_sha256}) == 3


def test_twelve_people_are_twelve_tracks(config: PredictConfig, crowd_picture: bytes, tmp_path: Path) -> None:
    (tmp_path / "crowd.png").write_bytes(crowd_picture)
    (row,) = predict(tmp_path / "crowd.png", config).rows
    assert (row.status, row.faces, row.tracks) == ("ok", 12, 12)


def test_too_few_frames_are_a_result_without_a_probability(config: PredictConfig, pictures: Path, clip: Path) -> None:
    summary = predict([pictures / "0.png", pictures / "noise.png", clip], replace(config, min_frames=2))
    assert statuses(summary.rows) == {"0.png": "too_few_frames", "noise.png": "too_few_frames", "astronaut.mp4": "ok"}
    few = next(row for row in summary.rows if row.video_key == "0")
    assert few.fake_probability is None and few.verdict is None
    assert few.error == "1 frame decoded, fewer than --min-frames 2"
    assert summary.failures == []


def test_copies_are_scored_once_and_get_a_row_each(config: PredictConfig, pictures: Path, tmp_path: Path) -> None:
    shutil.copy(pictures / "0.png", pictures / "0 copy.png")
    rows = predict([pictures / "0.png", pictures / "0 copy.png"], config, details=tmp_path / "details").rows
    assert [row.video_key for row in rows] == ["0 copy", "0"]
    assert rows[0].fake_probability == rows[1].fake_probability
    assert len(list((tmp_path / "details").iterdir())) == 1


@pytest.mark.parametrize("aggregate", ["max-track", "mean"])
def test_details_are_what_the_probability_was_made_of(
    config: PredictConfig, clip: Path, tmp_path: Path, aggregate: Any
) -> None:
    (row,) = predict(clip, replace(config, aggregate=aggregate), details=tmp_path / "details").rows
    path = tmp_path / "details" / f"{row.sha256[:16]}.parquet"
    table = pq.read_table(path)
    assert table.column_names == [field.name for field in fields(FaceScoreRow)]
    assert table.num_rows == row.faces == 4
    assert table["frame_index"].to_pylist() == sorted(table["frame_index"].to_pylist())
    assert set(table["video"].to_pylist()) == {row.video} and set(table["sha256"].to_pylist()) == {row.sha256}
    probability = aggregate_video(table["fake_probability"].to_pylist(), table["track"].to_pylist(), aggregate)
    assert row.fake_probability == pytest.approx(probability, abs=1e-12)
    assert read_provenance(path).settings["aggregate"] == aggregate
    assert temporary_files(tmp_path) == []


def test_details_that_are_missing_are_made_again(config: PredictConfig, pictures: Path, tmp_path: Path) -> None:
    output, details = tmp_path / "scores.csv", tmp_path / "details"
    predict([pictures], config, output=output, details=details)
    lost = sorted(details.iterdir())[0]
    lost.unlink()
    summary = predict([pictures], config, output=output, details=details)
    assert summary.reused == 4
    assert lost.is_file() and len(list(details.iterdir())) == 5


@pytest.mark.parametrize(("threshold", "verdict"), [(0.0, "fake"), (1.0, "real")])
def test_the_threshold_decides_the_verdict_and_not_the_probability(
    config: PredictConfig, pictures: Path, threshold: float, verdict: str
) -> None:
    (row,) = predict(pictures / "0.png", replace(config, threshold=threshold)).rows
    assert (row.verdict, row.threshold) == (verdict, threshold)


def test_frames_and_detector_settings_of_the_checkpoint_are_taken_unless_others_are_given(
    config: PredictConfig, clip: Path
) -> None:
    assert predict(clip, config).rows[0].frames == 4
    assert predict(clip, replace(config, frames=2)).rows[0].frames == 2
    (row,) = predict(clip, replace(config, frames=1, min_score=0.999999)).rows
    assert row.status == "no_face"


def _read_csv(path: Path) -> list[dict[str, Any]]:
    import csv

    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("suffix", "read"),
    [
        (".csv", _read_csv),
        (".parquet", lambda path: pq.read_table(path).to_pylist()),
        (".json", lambda path: json.loads(path.read_text("utf-8"))),
    ],
)
def test_scores_are_written_in_every_format_with_the_published_columns(
    config: PredictConfig, pictures: Path, tmp_path: Path, suffix: str, read: Callable[[Path], list[dict[str, Any]]]
) -> None:
    (pictures / 'empty, "quoted"\nü.png').write_bytes(b"")
    output = tmp_path / "new folder" / f"scores{suffix}"
    summary = predict([pictures], config, output=output)
    assert all(list(record) == COLUMNS for record in read(output))
    assert read_scores(output) == summary.rows
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_rows_are_handed_over_as_they_are_known_in_the_order_of_paths(config: PredictConfig, pictures: Path) -> None:
    seen: list[ScoreRow] = []
    done: list[int] = []
    summary = predict([pictures], config, on_row=seen.append, on_progress=lambda event: done.append(event.done))
    assert seen == summary.rows
    assert [row.video for row in seen] == sorted(row.video for row in seen)
    assert done == list(range(6))


def _interrupt_after(number: int) -> Callable[[ScoreRow], None]:
    rows: list[ScoreRow] = []

    def on_row(row: ScoreRow) -> None:
        rows.append(row)
        if len(rows) == number:
            raise KeyboardInterrupt

    return on_row


@pytest.fixture
def interrupted(config: PredictConfig, pictures: Path, tmp_path: Path) -> Iterator[Path]:
    """An output whose run was interrupted after two of five pictures."""
    output = tmp_path / "scores.csv"
    with pytest.raises(KeyboardInterrupt):
        predict([pictures], config, output=output, on_row=_interrupt_after(2))
    assert not output.exists()
    yield output


def _journal(output: Path) -> Path:
    return output.with_name(f"{output.name}.journal")


def test_an_interrupted_batch_goes_on_and_equals_an_undisturbed_one(
    config: PredictConfig, pictures: Path, interrupted: Path, tmp_path: Path
) -> None:
    assert len(_journal(interrupted).read_text().splitlines()) == 3
    summary = predict([pictures], config, output=interrupted)
    assert summary.reused == 2
    predict([pictures], config, output=tmp_path / "undisturbed.csv")
    assert interrupted.read_bytes() == (tmp_path / "undisturbed.csv").read_bytes()
    assert not _journal(interrupted).exists()
    assert temporary_files(tmp_path) == []


@pytest.mark.parametrize("tear", [1, 40])
def test_a_torn_last_line_of_the_journal_is_scored_again(
    config: PredictConfig, pictures: Path, interrupted: Path, tear: int
) -> None:
    journal = _journal(interrupted)
    journal.write_bytes(journal.read_bytes().rstrip(b"\n")[:-tear])
    with pytest.raises(KeyboardInterrupt):
        predict([pictures], config, output=interrupted, on_row=_interrupt_after(3))
    summary = predict([pictures], config, output=interrupted)
    assert summary.reused == 3
    assert len(read_scores(interrupted)) == 5


@pytest.mark.parametrize("changed", [{"threshold": 0.9}, {"frames": 2}, {"min_frames": 2}, {"aggregate": "mean"}])
def test_a_journal_of_other_settings_is_refused_unless_it_is_overwritten(
    config: PredictConfig, pictures: Path, interrupted: Path, changed: dict[str, Any]
) -> None:
    other = replace(config, **changed)
    before = _journal(interrupted).read_bytes()
    with pytest.raises(ConfigError, match="is from an interrupted run with other settings; .* pass --overwrite"):
        predict([pictures], other, output=interrupted)
    assert _journal(interrupted).read_bytes() == before
    summary = predict([pictures], other, RunOptions(overwrite=True), output=interrupted)
    assert summary.reused == 0 and not _journal(interrupted).exists()


def test_a_journal_whose_settings_line_was_torn_is_still_refused_by_its_rows(
    config: PredictConfig, pictures: Path, interrupted: Path
) -> None:
    lines = _journal(interrupted).read_text().splitlines(keepends=True)
    _journal(interrupted).write_text('{"settings_sh\n' + "".join(lines[1:]))
    with pytest.raises(ConfigError, match="other settings"):
        predict([pictures], replace(config, threshold=0.9), output=interrupted)
    assert predict([pictures], config, output=interrupted).reused == 2


def test_a_run_that_scored_nothing_leaves_no_journal_to_agree_with(
    config: PredictConfig, pictures: Path, checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / "scores.csv"
    with pytest.raises(CheckpointError, match="is not a RetinaFace detector"):
        predict([pictures], replace(config, detector=str(checkpoint)), output=output)
    assert not _journal(output).exists()
    assert len(predict([pictures], config, output=output).rows) == 5


def test_finished_scores_are_reused_by_content(config: PredictConfig, pictures: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores.parquet"
    first = predict([pictures], config, output=output)
    (pictures / "new.png").write_bytes(make_noise(9))
    (pictures / "0.png").rename(pictures / "renamed.png")
    second = predict([pictures], config, output=output)
    assert (first.reused, second.reused, len(second.rows)) == (0, 5, 6)
    by_digest = {row.sha256: row.fake_probability for row in first.rows}
    assert all(row.fake_probability == by_digest[row.sha256] for row in second.rows if row.sha256 in by_digest)
    assert "renamed" in {row.video_key for row in read_scores(output)}


def test_a_failed_video_is_tried_again(config: PredictConfig, pictures: Path, tmp_path: Path) -> None:
    output = tmp_path / "scores.csv"
    (pictures / "late.png").write_bytes(b"")
    assert statuses(predict([pictures], config, output=output).failures) == {"late.png": "unreadable"}
    shutil.copy(pictures / "1.png", pictures / "late.png")
    summary = predict([pictures], config, output=output)
    assert summary.failures == [] and len(read_scores(output)) == 6


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json"])
def test_an_output_of_other_settings_is_refused_unless_it_is_overwritten(
    config: PredictConfig, pictures: Path, tmp_path: Path, suffix: str
) -> None:
    output = tmp_path / f"scores{suffix}"
    predict([pictures / "0.png"], config, output=output)
    before = output.read_bytes()
    other = replace(config, threshold=0.9)
    with pytest.raises(ConfigError, match="holds scores made with another checkpoint or other settings; .*--overwrite"):
        predict([pictures / "0.png"], other, output=output)
    assert output.read_bytes() == before
    predict([pictures / "0.png"], other, RunOptions(overwrite=True), output=output)
    assert read_scores(output)[0].threshold == 0.9


@pytest.mark.parametrize(
    ("name", "content"),
    [("scores.csv", "a,b\n1,2\n"), ("scores.json", "{"), ("scores.json", '["x"]'), ("scores.parquet", "text")],
)
def test_a_file_that_is_no_scores_is_not_overwritten_by_accident(
    config: PredictConfig, pictures: Path, tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(
        ConfigError, match="exists and is not a file of scores; choose another name or pass --overwrite"
    ):
        predict([pictures], config, output=tmp_path / name)
    assert (tmp_path / name).read_text() == content


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("scores.txt", ConfigError, "must end in .csv, .parquet or .json"),
        ("folder.csv", ConfigError, "is a folder; give a file that ends in"),
        ("file/scores.csv", StorageError, "could not write"),
    ],
)
def test_an_output_that_can_not_be_written_is_refused_before_any_work(
    config: PredictConfig, pictures: Path, tmp_path: Path, name: str, error: type[Exception], message: str
) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").write_text("no folder")
    seen: list[ScoreRow] = []
    with pytest.raises(error, match=message):
        predict([pictures], config, output=tmp_path / name, on_row=seen.append)
    assert seen == []


def test_another_detector_than_the_checkpoints_is_a_warning(
    config: PredictConfig, pictures: Path, checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load_checkpoint(str(checkpoint), build_model)
    contract = replace(loaded.header.preprocessing, detector_sha256="0" * 64)
    other = tmp_path / "other.safetensors"
    save_checkpoint(other, loaded.network.state_dict(), replace(loaded.header, preprocessing=contract))
    with caplog.at_level("WARNING", logger="pipelines"):
        assert predict(pictures / "0.png", replace(config, checkpoint=str(other))).rows[0].status == "ok"
    assert "the checkpoint was trained with the detector" in caplog.text


def test_faces_of_another_margin_are_refused(
    config: PredictConfig, faces_workspace: Path, detector_file: Path, tmp_path: Path
) -> None:
    work = Path(shutil.copytree(faces_workspace, tmp_path / "work"))
    detect_faces(work, DetectConfig(detector=str(detector_file), margin=1.3), RunOptions(overwrite=True))
    with pytest.raises(ManifestError, match="have margin 1.3, the checkpoint needs 1.0; .*detect-faces --margin 1.0"):
        predict_faces(work, config)


def test_a_workspace_without_faces_is_refused(config: PredictConfig, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="workspace .* does not exist"):
        predict_faces(tmp_path / "work", config)


def test_imported_faces_are_scored_under_the_sources_names(
    config: PredictConfig, face_pictures: dict[str, Any], tmp_path: Path
) -> None:
    picture = encode_png(face_pictures["real"][0])
    source = write_faces_parquet(
        tmp_path / "f.parquet",
        [
            {"image": picture, "video": "Ä/clip 1"},
            {"image": make_noise(1), "video": "b"},
            {"image": b"x", "video": "c"},
        ],
    )
    import_faces(source, tmp_path / "work", ImportConfig(as_is=True))
    rows = predict_faces(tmp_path / "work", config).rows
    assert [(row.video, row.status, row.frames, row.faces) for row in rows] == [
        ("Ä/clip 1", "ok", 1, 1), ("b", "ok", 1, 1), ("c", "unreadable", 0, 0),
    ]  # fmt: skip
    import hashlib

    assert rows[0].sha256 == hashlib.sha256(picture).hexdigest()


def test_a_lost_crop_fails_its_video_only(config: PredictConfig, faces_workspace: Path, tmp_path: Path) -> None:
    work = Path(shutil.copytree(faces_workspace, tmp_path / "work"))
    next((work / "detect-faces" / "crops").glob("*/*.png")).write_bytes(b"")
    rows = predict_faces(work, config).rows
    assert sorted(row.status for row in rows) == ["failed", "ok"]
    failed = next(row for row in rows if row.status == "failed")
    assert failed.error is not None and "is missing or damaged; make the stage again" in failed.error


def test_the_default_weights_score_the_clips(clip: Path) -> None:
    (row,) = predict(clip).rows
    assert (row.status, row.model) == ("ok", "multi-attention-default")


def test_scores_hold_no_trace_of_when_or_where_they_were_made(config: PredictConfig, pictures: Path) -> None:
    one, two = (predict([pictures], config).rows for _ in range(2))
    assert [asdict(row) for row in one] == [asdict(row) for row in two]
    assert _probabilities(one) == _probabilities(two)


@pytest.mark.parametrize(
    "change", [{"frames": 8}, {"detector": "x"}, {"max_side": 64}, {"min_score": 0.5}, {"decoder": "pyav"}]
)
def test_settings_that_choose_frames_and_faces_are_refused_where_those_are_there(
    change: dict[str, Any], config: PredictConfig, faces_workspace: Path
) -> None:
    option = "--" + next(iter(change)).replace("_", "-")
    own = replace(config, frames=None, detector=None, max_side=None, min_score=None)
    with pytest.raises(ConfigError, match=f"{option} has no effect on the faces of a workspace"):
        predict_faces(faces_workspace, replace(own, **change))


def test_an_output_with_rows_of_other_videos_is_not_replaced_silently(
    config: PredictConfig, pictures: Path, tmp_path: Path
) -> None:
    output = tmp_path / "scores.csv"
    predict(pictures / "0.png", config, output=output)
    with pytest.raises(ConfigError, match="holds scores of 1 video that is not among the inputs .*--overwrite"):
        predict(pictures / "1.png", config, output=output)
    assert [Path(row.video).name for row in read_scores(output)] == ["0.png"]
    assert len(predict([pictures / "0.png", pictures / "1.png"], config, output=output).rows) == 2


def test_details_of_other_settings_are_made_again(config: PredictConfig, clip: Path, tmp_path: Path) -> None:
    two, five = replace(config, frames=2), replace(config, frames=5)
    predict(clip, two, output=tmp_path / "two.csv")
    predict(clip, five, output=tmp_path / "five.csv", details=tmp_path / "details")
    predict(clip, two, output=tmp_path / "two.csv", details=tmp_path / "details")
    (details,) = (tmp_path / "details").iterdir()
    assert pq.read_table(details).num_rows == 2


def test_faces_that_the_frames_have_left_behind_are_refused(
    config: PredictConfig, faces_workspace: Path, clip: Path, tmp_path: Path
) -> None:
    work = Path(shutil.copytree(faces_workspace, tmp_path / "work"))
    extract_frames([clip], work, ExtractConfig(frames=3), RunOptions(overwrite=True))
    with pytest.raises(ManifestError, match="was made from an earlier extract-frames .*detect-faces.*--overwrite"):
        predict_faces(work, config)
