"""A run over everything completes what shards left, with the files of a run without shards."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipelines import (
    DetectConfig,
    ExtractConfig,
    RunOptions,
    Shard,
    TrainOptions,
    calibrate,
    detect_faces,
    evaluate,
    extract_frames,
    import_faces,
    train,
)
from pipelines.errors import ConfigError, ManifestError, SettingsChangedError
from pipelines.records import VideoRow
from pipelines.workspace.manifest import read_table
from pipelines.workspace.run_loop import StageSummary
from tests.support import encode_png, file_contents, make_noise, stage_content, statuses, temporary_files
from tests.synthetic import write_video

ONE = ExtractConfig(frames=1)
STAGE = "extract-frames"
THREE = [Shard(index, 3) for index in (1, 2, 3)]


@pytest.fixture(scope="module")
def all_inputs(tmp_path_factory: pytest.TempPathFactory, face_pictures: dict[str, Any]) -> Path:
    """Nine files: faces, noise, a video, a copy, and one that does not decode."""
    folder = tmp_path_factory.mktemp("inputs")
    for number, picture in enumerate(face_pictures["real"][:2]):
        (folder / f"face{number}.png").write_bytes(encode_png(picture))
    for number in range(4):
        (folder / f"noise{number}.png").write_bytes(make_noise(number))
    shutil.copy(folder / "noise1.png", folder / "a copy.png")
    write_video(folder / "video.mp4", num_frames=3, size=(64, 48))
    (folder / "broken.png").write_bytes(make_noise(9)[:60])
    return folder


@pytest.fixture
def inputs(all_inputs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(all_inputs, tmp_path / "inputs"))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


def _named(inputs: Path) -> list[Path]:
    """Also two that are not there: no content, no id, but a row each."""
    return [inputs, inputs / "missing.mp4", inputs / "lost.mp4"]


def _extract(inputs: Path, work: Path, *shards: Shard, config: ExtractConfig = ONE) -> list[StageSummary]:
    return [extract_frames(_named(inputs), work, config, RunOptions(shard=shard, workers=1)) for shard in shards]


def _undisturbed(inputs: Path, folder: Path) -> Path:
    extract_frames(_named(inputs), folder, ONE)
    return folder / STAGE


def _all_files(folder: Path) -> dict[str, bytes]:
    return file_contents(folder, ".parquet", ".png")


def _complete(inputs: Path, work: Path) -> StageSummary:
    return extract_frames(_named(inputs), work, ONE)


@pytest.mark.parametrize(("text", "expected"), [("1/1", Shard(1, 1)), ("2/3", Shard(2, 3)), ("10/10", Shard(10, 10))])
def test_a_shard_is_read_as_it_is_shown(text: str, expected: Shard) -> None:
    assert Shard.parse(text) == expected and str(expected) == text


@pytest.mark.parametrize("text", ["x", "", "2", "1/3/5", "-1/3", "1.0/3", " 1/3", "1/3\n", "²/3"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="shard must be i/n, such as 2/3, got "):
        Shard.parse(text)


@pytest.mark.parametrize("text", ["0/3", "4/3", "0/0", "1/0"])
def test_a_shard_outside_its_number_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"shard must be i/n with i from 1 to n, got {text}"):
        Shard.parse(text)


@pytest.mark.parametrize("has_id", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_every_video_is_in_one_shard_and_they_are_about_equal(count: int, has_id: bool) -> None:
    digests = [hashlib.sha256(bytes([number % 256, number // 256])).hexdigest() for number in range(1400)]
    videos = [VideoRow(digest[:16] if has_id else "", "", f"key {digest}", "") for digest in digests]
    sizes = Counter(shard for video in videos for shard in range(1, count + 1) if Shard(shard, count).holds(video))
    assert sum(sizes.values()) == len(videos)
    assert all(abs(size - len(videos) / count) < 0.2 * len(videos) / count for size in sizes.values())


def test_the_shard_of_a_video_depends_on_its_content_alone() -> None:
    assert Shard(3, 3).holds(VideoRow("00000000000000ff", "", "a", "a.mp4", label="real")) is False
    assert Shard(1, 3).holds(VideoRow("00000000000000ff", "", "a", "a.mp4"))
    assert Shard(1, 3).holds(VideoRow("00000000000000ff", "", "b", "b.mp4", split="test", status="failed"))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_three_shards_and_a_run_without_are_one_run_over_everything_byte_for_byte(
    inputs: Path, work: Path, tmp_path: Path, order: Sequence[int]
) -> None:
    summaries = _extract(inputs, work, *(THREE[place] for place in order))
    assert sorted(len(summary.videos) for summary in summaries) != [0, 0, 11]
    assert sum(len(summary.videos) for summary in summaries) == 11
    merged = _complete(inputs, work)
    assert merged.skipped == 7
    expected = _undisturbed(inputs, tmp_path / "expected")
    assert _all_files(work / STAGE) == _all_files(expected)
    assert statuses(merged.failures) == dict.fromkeys(["broken.png", "lost.mp4", "missing.mp4"], "unreadable")
    assert temporary_files(work) == []


def test_shards_may_run_at_the_same_time(inputs: Path, work: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda shard: _extract(inputs, work, shard), THREE))
    _complete(inputs, work)
    expected = _undisturbed(inputs, tmp_path / "expected")
    assert _all_files(work / STAGE) == _all_files(expected)


def test_shards_of_separate_workspaces_can_be_copied_into_one(inputs: Path, work: Path, tmp_path: Path) -> None:
    for shard in THREE:
        _extract(inputs, tmp_path / f"server{shard.index}", shard)
        shutil.copytree(tmp_path / f"server{shard.index}", work, dirs_exist_ok=True)
    _complete(inputs, work)
    expected = _undisturbed(inputs, tmp_path / "expected")
    assert _all_files(work / STAGE) == _all_files(expected)


def test_more_shards_than_videos_leave_some_without_work(inputs: Path, work: Path, tmp_path: Path) -> None:
    summaries = _extract(inputs, work, *(Shard(index, 40) for index in range(1, 41)))
    assert [] in [summary.videos for summary in summaries]
    _complete(inputs, work)
    assert stage_content(work / STAGE) == stage_content(_undisturbed(inputs, tmp_path / "expected"))


def test_a_shard_writes_its_parts_and_no_manifest(inputs: Path, work: Path) -> None:
    (summary,) = _extract(inputs, work, THREE[1])
    assert summary.shard == THREE[1]
    ids = {video.video_id for video in summary.videos if video.status == "ok"}
    assert 0 < len(ids) < 7 and {path.stem for path in (work / STAGE / "parts").iterdir()} == ids
    assert {path.name for path in (work / STAGE).iterdir()} == {"digests.jsonl", "frames", "parts"}
    with pytest.raises(ManifestError, match=f"{STAGE} was not finished in {work}; run: deepfake {STAGE} … -w {work}"):
        detect_faces(work)


def test_faces_found_in_shards_are_those_of_one_run(
    inputs: Path, work: Path, tmp_path: Path, detector_file: Path
) -> None:
    config = DetectConfig(detector=str(detector_file))
    _undisturbed(inputs, work)
    expected = Path(shutil.copytree(work, tmp_path / "expected"))
    detect_faces(expected, config)
    summaries = [detect_faces(work, config, RunOptions(shard=shard)) for shard in THREE]
    assert max(len(summary.videos) for summary in summaries) < 11 and sum(summary.skipped for summary in summaries) == 0
    merged = detect_faces(work, config)
    assert Counter(statuses(merged.videos).values()) == {"ok": 2, "no_face": 6, "unreadable": 3}
    assert _all_files(work / "detect-faces") == _all_files(expected / "detect-faces")


@pytest.mark.parametrize("lost", [(2,), (1, 3)])
def test_a_run_over_everything_does_the_work_of_lost_shards(
    inputs: Path, work: Path, tmp_path: Path, lost: tuple[int, ...]
) -> None:
    _extract(inputs, work, *(shard for shard in THREE if shard.index not in lost))
    assert 0 < _complete(inputs, work).skipped < 7
    assert _all_files(work / STAGE) == _all_files(_undisturbed(inputs, tmp_path / "expected"))


def test_a_part_that_was_lost_on_the_way_is_made_again(inputs: Path, work: Path) -> None:
    summaries = _extract(inputs, work, *THREE)
    video = next(video for video in summaries[2].videos if video.status == "ok")
    part = work / STAGE / "parts" / f"{video.video_id}.parquet"
    part.unlink()
    assert _complete(inputs, work).skipped == 6 and part.is_file()


def test_the_files_that_older_versions_wrote_for_each_shard_are_removed(inputs: Path, work: Path) -> None:
    _extract(inputs, work, *THREE)
    (work / STAGE / "shards").mkdir()
    (work / STAGE / "shards" / "1-of-3.parquet").write_bytes(b"")
    _complete(inputs, work)
    assert not (work / STAGE / "shards").exists()


def _add_a_video(inputs: Path) -> None:
    (inputs / "new.png").write_bytes(make_noise(77))


def _label_a_video(inputs: Path) -> None:
    (inputs / "real").mkdir()
    (inputs / "noise0.png").rename(inputs / "real" / "noise0.png")


@pytest.mark.parametrize("change", [_add_a_video, _label_a_video])
def test_inputs_that_changed_between_shards_count_as_the_last_run_finds_them(
    inputs: Path, work: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    _extract(inputs, work, *THREE[:2])
    change(inputs)
    _extract(inputs, work, THREE[2])
    _complete(inputs, work)
    assert stage_content(work / STAGE) == stage_content(_undisturbed(inputs, tmp_path / "expected"))


def test_shards_of_other_settings_are_refused_by_name(inputs: Path, work: Path) -> None:
    _extract(inputs, work, *THREE[:2])
    with pytest.raises(SettingsChangedError, match="frames was 1 and is now 2"):
        _extract(inputs, work, THREE[2], config=ExtractConfig(frames=2))


def test_another_number_of_shards_resumes_what_was_finished(inputs: Path, work: Path, tmp_path: Path) -> None:
    _extract(inputs, work, THREE[0])
    (half,) = _extract(inputs, work, Shard(1, 2))
    assert half.skipped > 0
    _extract(inputs, work, Shard(2, 2))
    assert _complete(inputs, work).skipped == 7
    assert stage_content(work / STAGE) == stage_content(_undisturbed(inputs, tmp_path / "expected"))


def test_shards_after_a_run_without_change_nothing(inputs: Path, work: Path) -> None:
    (inputs / "broken.png").unlink()  # it would be tried again, and take the manifest away
    content = stage_content(_undisturbed(inputs, work))
    assert sum(summary.skipped for summary in _extract(inputs, work, *THREE)) == 7
    assert stage_content(work / STAGE) == content


def test_what_failed_in_a_shard_is_tried_again_by_it(inputs: Path, work: Path) -> None:
    _extract(inputs, work, *THREE)
    write_video(inputs / "missing.mp4", num_frames=3, size=(64, 48))
    summaries = _extract(inputs, work, *THREE)
    assert sum(len(summary.failures) for summary in summaries) == 2
    assert statuses(_complete(inputs, work).videos)["missing.mp4"] == "ok"


def test_new_videos_in_a_shard_take_the_manifest_away_until_the_stage_is_complete_again(
    inputs: Path, work: Path
) -> None:
    _extract(inputs, work, *THREE)
    _complete(inputs, work)
    _add_a_video(inputs)
    _extract(inputs, work, *THREE)
    assert not (work / STAGE / "manifest.parquet").exists()
    _complete(inputs, work)
    assert read_table(work / STAGE / "videos.parquet").num_rows == 12


def test_one_shard_cannot_discard_the_work_of_the_others(inputs: Path, work: Path, detector_file: Path) -> None:
    _undisturbed(inputs, work)
    options, before = RunOptions(shard=THREE[0], overwrite=True), _all_files(work)
    for run in (
        lambda: extract_frames(inputs, work, options=options),
        lambda: detect_faces(work, DetectConfig(detector=str(detector_file)), options),
    ):
        with pytest.raises(ConfigError, match=f"would discard what the other shards have made; remove {work}/.* once"):
            run()
    assert _all_files(work) == before


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("import-faces", lambda: import_faces("f.parquet", "work", options=RunOptions(shard=THREE[0]))),
        ("train", lambda: train("work", options=TrainOptions(shard=THREE[0]))),
        ("evaluate", lambda: evaluate(["work"], options=RunOptions(shard=THREE[0]))),
        ("calibrate", lambda: calibrate("work", "c.safetensors", options=RunOptions(shard=THREE[0]))),
    ],
)
def test_what_needs_the_whole_refuses_a_shard(name: str, run: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match=f"shard is not an option of {name}, got 1/3"):
        run()
