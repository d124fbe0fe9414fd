"""`extract-frames` writes the right frames with their true times, once, and says what became of every input."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import ExtractConfig, RunOptions, extract_frames
from pipelines.errors import ConfigError, DatasetError, SettingsChangedError
from pipelines.records import FrameRow, schema_of, table_to_rows
from pipelines.system.image_files import read_image
from pipelines.workspace.manifest import read_provenance, read_table
from tests.support import make_noise, modification_times, stage_content, statuses, temporary_files
from tests.synthetic import draw_frame, is_upright, read_number, write_video

FOUR = ExtractConfig(frames=4)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Two videos and a picture."""
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "b.mp4", num_frames=20)
    write_video(folder / "a.mkv", num_frames=12, rotation=0)
    (folder / "c.png").write_bytes(make_noise(1))
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    return tmp_path / "work"


def _frames(work: Path) -> list[FrameRow]:
    return table_to_rows(read_table(work / "extract-frames" / "manifest.parquet", FrameRow), FrameRow)


def _parts(work: Path) -> dict[str, int]:
    return modification_times((work / "extract-frames" / "parts").iterdir())


def test_the_frames_on_disk_are_those_of_the_manifest(videos: Path, work: Path) -> None:
    summary = extract_frames([videos / "b.mp4"], work, FOUR)
    rows = _frames(work)
    assert [row.frame_index for row in rows] == [2, 7, 12, 17]
    for row in rows:
        image = read_image(work / "extract-frames" / row.path)
        assert read_number(image) == row.frame_index and is_upright(image)
        assert image.shape == (row.height_px, row.width_px, 3)
        assert row.pts_seconds == pytest.approx(row.frame_index / 25)
        assert row.pts * row.time_base_num / row.time_base_den == row.pts_seconds
        assert row.path == f"frames/{row.video_id}/{row.frame_index:08d}.png"
    assert summary.rows == 4 and not summary.failures


def test_the_manifest_has_the_published_columns_ordered_by_path_of_the_video(videos: Path, work: Path) -> None:
    summary = extract_frames([videos], work, FOUR)
    table = read_table(work / "extract-frames" / "manifest.parquet")
    assert table.column_names == schema_of(FrameRow).names
    assert [Path(video.path).name for video in summary.videos] == ["a.mkv", "b.mp4", "c.png"]
    assert [video.rows for video in summary.videos] == [4, 4, 1]
    expected = [video.video_id for video in summary.videos for _ in range(video.rows)]
    assert table["video_id"].to_pylist() == expected
    assert str(work) not in str(table.to_pylist())
    assert temporary_files(work) == []


def test_rotation_is_applied_and_recorded(tmp_path: Path, work: Path) -> None:
    extract_frames([write_video(tmp_path / "turned.mp4", num_frames=6, rotation=90)], work, FOUR)
    assert {row.rotation_degrees for row in _frames(work)} == {90}
    assert all(is_upright(read_image(work / "extract-frames" / row.path)) for row in _frames(work))


@pytest.mark.parametrize(
    ("config", "indices"),
    [
        (ExtractConfig(fps=5.0), [0, 5, 10, 15]),
        (ExtractConfig(frames=2, start_seconds=0.4), [12, 17]),
        (ExtractConfig(frames=2, end_seconds=0.4), [2, 7]),
        (ExtractConfig(fps=25.0, start_seconds=0.2, end_seconds=0.32), [5, 6, 7]),
        (ExtractConfig(frames=100), list(range(20))),
    ],
)
def test_frames_are_chosen_by_number_rate_and_span(
    videos: Path, work: Path, config: ExtractConfig, indices: list[int]
) -> None:
    extract_frames([videos / "b.mp4"], work, config)
    assert [row.frame_index for row in _frames(work)] == indices


def test_jpeg_frames_are_smaller_and_still_right(videos: Path, work: Path) -> None:
    extract_frames([videos / "b.mp4"], work, ExtractConfig(frames=3, format="jpg"))
    for row in _frames(work):
        assert row.path.endswith(".jpg")
        assert read_number(read_image(work / "extract-frames" / row.path)) == row.frame_index


def test_labels_of_folders_and_of_a_file_stand_in_the_rows(videos: Path, work: Path) -> None:
    header = "video,label,split,original,identity"
    (videos / "labels.csv").write_text(f"{header}\nb.mp4,fake,train,a,Anna;Ben\na.mkv,real,train,,Ben\n")
    summary = extract_frames([videos], work, FOUR, labels=videos / "labels.csv")
    assert [(video.label, video.split, video.original, video.identity) for video in summary.videos] == [
        ("real", "train", None, "Ben"),
        ("fake", "train", "a", "Anna;Ben"),
        (None, None, None, None),
    ]


def test_changed_labels_need_no_new_frames(videos: Path, work: Path) -> None:
    extract_frames([videos], work, FOUR)
    before = _parts(work)
    (videos / "labels.csv").write_text("video,label\nb.mp4,fake\n")
    summary = extract_frames([videos], work, FOUR, labels=videos / "labels.csv")
    assert [video.label for video in summary.videos] == [None, "fake", None]
    assert _parts(work) == before


def test_finished_videos_are_skipped_and_the_result_is_the_same(videos: Path, work: Path) -> None:
    first = extract_frames([videos], work, FOUR)
    content, parts = stage_content(work / "extract-frames"), _parts(work)
    second = extract_frames([videos], work, FOUR)
    assert (first.skipped, second.skipped) == (0, 3)
    assert second.videos == first.videos
    assert (stage_content(work / "extract-frames"), _parts(work)) == (content, parts)


def test_new_videos_add_parts_and_the_manifest_is_that_of_the_named_ones(videos: Path, work: Path) -> None:
    extract_frames([videos / "b.mp4"], work, FOUR)
    before = _parts(work)
    summary = extract_frames([videos], work, FOUR)
    assert summary.skipped == 1 and len({row.video_id for row in _frames(work)}) == 3
    assert before.items() <= _parts(work).items()
    extract_frames([videos / "c.png"], work, FOUR)
    assert len(_frames(work)) == 1 and len(_parts(work)) == 3


def test_a_workspace_inside_the_named_folder_is_no_input(videos: Path) -> None:
    work = videos / "work"
    first = extract_frames([videos], work, FOUR)
    second = extract_frames([videos], work, FOUR)
    assert len(first.videos) == len(second.videos) == 3
    assert second.skipped == 3


@pytest.mark.parametrize(
    ("config", "change"),
    [
        (ExtractConfig(frames=64), "frames was 4 and is now 64"),
        (ExtractConfig(frames=4, format="jpg"), "format was png and is now jpg"),
        (ExtractConfig(frames=4, fps=2.0), "fps was not set and is now 2.0"),
        (ExtractConfig(frames=4, start_seconds=1.0), "start_seconds was not set and is now 1.0"),
        (ExtractConfig(frames=4, decoder="pyav"), "decoder was auto and is now pyav"),
    ],
)
def test_a_changed_setting_is_refused_by_name_and_made_with_overwrite(
    videos: Path, work: Path, config: ExtractConfig, change: str
) -> None:
    extract_frames([videos / "b.mp4"], work, FOUR)
    before = stage_content(work / "extract-frames")
    with pytest.raises(SettingsChangedError, match=f"{change}; pass --overwrite"):
        extract_frames([videos / "b.mp4"], work, config)
    assert stage_content(work / "extract-frames") == before
    summary = extract_frames([videos / "b.mp4"], work, config, RunOptions(overwrite=True))
    assert summary.skipped == 0
    assert read_provenance(work / "extract-frames" / "manifest.parquet").settings["frames"] == config.frames


def test_how_to_run_is_no_changed_setting(videos: Path, work: Path) -> None:
    extract_frames([videos], work, FOUR, RunOptions(workers=1))
    assert extract_frames([videos], work, FOUR, RunOptions(workers=3)).skipped == 3


def test_workers_change_nothing(videos: Path, tmp_path: Path) -> None:
    for workers in (1, 3):
        extract_frames([videos], tmp_path / str(workers), FOUR, RunOptions(workers=workers))
    assert stage_content(tmp_path / "1" / "extract-frames") == stage_content(tmp_path / "3" / "extract-frames")


def test_copies_are_decoded_once_and_get_a_row_each(videos: Path, work: Path) -> None:
    shutil.copy(videos / "b.mp4", videos / "copy of b.mp4")
    summary = extract_frames([videos], work, FOUR)
    by_key = {video.video_key: video for video in summary.videos}
    assert by_key["b"].video_id == by_key["copy of b"].video_id
    assert by_key["b"].rows == by_key["copy of b"].rows == 4
    assert len(_parts(work)) == 3
    assert len(_frames(work)) == 9


def test_copies_with_different_labels_are_refused(videos: Path, work: Path) -> None:
    shutil.copy(videos / "b.mp4", videos / "copy.mp4")
    (videos / "labels.csv").write_text("video,label\nb.mp4,fake\ncopy.mp4,real\n")
    with pytest.raises(DatasetError, match="are the same video, labelled fake and real; correct one label"):
        extract_frames([videos], work, FOUR, labels=videos / "labels.csv")


def test_a_broken_video_gets_a_row_and_the_others_go_on_and_it_is_tried_again(videos: Path, work: Path) -> None:
    whole = (videos / "b.mp4").read_bytes()
    (videos / "b.mp4").write_bytes(whole[: len(whole) // 3])
    summary = extract_frames([videos, videos / "missing.mp4"], work, FOUR)
    assert statuses(summary.videos) == {
        "a.mkv": "ok", "b.mp4": "unreadable", "c.png": "ok", "missing.mp4": "unreadable",
    }  # fmt: skip
    broken, missing = summary.failures
    assert broken.error is not None and "no index (no moov box), it was probably cut off" in broken.error
    assert missing.error == "missing.mp4 does not exist; check the path"
    assert len({row.video_id for row in _frames(work)}) == 2
    assert temporary_files(work) == []

    (videos / "b.mp4").write_bytes(whole)
    summary = extract_frames([videos], work, FOUR)
    assert (summary.skipped, summary.failures) == (2, [])


def test_a_span_outside_the_video_is_a_failure_that_names_it(videos: Path, work: Path) -> None:
    summary = extract_frames([videos / "b.mp4"], work, ExtractConfig(start_seconds=100.0))
    assert [(video.status, video.error) for video in summary.videos] == [
        ("failed", "b.mp4 has no frame between --start and --end; choose a span inside the video")
    ]


def test_a_cut_video_is_ok_with_a_note(tmp_path: Path, work: Path) -> None:
    path = write_video(tmp_path / "cut.mkv", num_frames=80)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    (video,) = extract_frames([path], work, FOUR).videos
    assert video.status == "ok" and video.error is not None and "copy it again" in video.error


@pytest.mark.parametrize("damage", [lambda part: part.write_bytes(part.read_bytes()[:50]), os.unlink])
def test_a_damaged_or_lost_part_is_made_again(videos: Path, work: Path, damage: Callable[[Path], None]) -> None:
    extract_frames([videos], work, FOUR)
    content, before = stage_content(work / "extract-frames"), _parts(work)
    part = next((work / "extract-frames" / "parts").iterdir())
    damage(part)
    assert extract_frames([videos], work, FOUR).skipped == 2
    assert stage_content(work / "extract-frames") == content
    after = _parts(work)
    assert {name for name in before if before[name] != after[name]} == {part.name}


def test_left_overs_of_a_kill_are_gone_after_the_next_run(videos: Path, work: Path) -> None:
    (video,) = extract_frames([videos / "b.mp4"], work, FOUR).videos
    stage = work / "extract-frames"
    (stage / "manifest.parquet").unlink()
    (stage / "parts" / f"{video.video_id}.parquet").unlink()
    shutil.move(stage / "frames" / video.video_id, stage / "frames" / f".{video.video_id}.tmp")
    (stage / "frames" / video.video_id).mkdir()
    (stage / ".videos.parquet.tmp").write_bytes(b"half")
    extract_frames([videos / "b.mp4"], work, FOUR)
    assert temporary_files(work) == []
    assert len(list((stage / "frames" / video.video_id).iterdir())) == 4


def test_an_interruption_keeps_what_was_finished(videos: Path, work: Path) -> None:
    def interrupt(event: object) -> None:
        if getattr(event, "done", 0) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_frames([videos], work, FOUR, RunOptions(workers=1), on_progress=interrupt)
    assert not (work / "extract-frames" / "manifest.parquet").exists()
    assert extract_frames([videos], work, FOUR).skipped == 2


def test_a_file_changed_in_secret_is_found_by_verifying(tmp_path: Path, work: Path) -> None:
    path = tmp_path / "c.bmp"
    import cv2

    def write(number: int) -> None:
        path.write_bytes(cv2.imencode(".bmp", draw_frame(number, (64, 48)))[1].tobytes())
        os.utime(path, ns=(0, 0))

    write(1)
    first = extract_frames([path], work, FOUR).videos[0].sha256
    write(2)
    assert extract_frames([path], work, FOUR).videos[0].sha256 == first
    summary = extract_frames([path], work, FOUR, RunOptions(verify=True))
    assert summary.videos[0].sha256 != first and summary.skipped == 0


@pytest.mark.parametrize("name", ["with space.mp4", "new\nline.mp4", "ünïcødé-視頻.mp4", "-leading.mp4", "50%.mp4"])
def test_names_are_taken_as_they_are(tmp_path: Path, work: Path, name: str) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    write_video(tmp_path / "video.mp4", num_frames=5).rename(folder / name)
    (video,) = extract_frames([folder], work, FOUR).videos
    assert (video.status, Path(video.path).name, video.video_key) == ("ok", name, name.removesuffix(".mp4"))


def test_a_name_that_is_not_text_is_escaped_in_the_rows(tmp_path: Path, work: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    try:
        write_video(tmp_path / "video.mp4", num_frames=5).rename(folder / os.fsdecode(b"\xff.mp4"))
    except OSError:
        pytest.skip("this file system takes only text as names")
    assert extract_frames([folder], work, FOUR).failures == []
    rows = read_table(work / "extract-frames" / "videos.parquet").to_pylist()
    assert rows[0]["path"].endswith("\\udcff.mp4")


def test_a_single_path_and_text_for_a_path_mean_what_a_list_of_paths_means(videos: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("video,label\nb.mp4,real\n")
    for number, named in enumerate((videos, str(videos), [str(videos)])):
        summary = extract_frames(named, str(tmp_path / f"work{number}"), FOUR, labels=str(labels))
        assert [video.video_key for video in summary.videos] == ["a", "b", "c"] and not summary.failures
        assert [video.label for video in summary.videos] == [None, "real", None]


def test_named_folders_keep_the_split_of_the_folder_above_them(tmp_path: Path, work: Path) -> None:
    folders = [tmp_path / "d2" / split / label for split in ("train", "test") for label in ("real", "fake")]
    for number, folder in enumerate(folders):
        folder.mkdir(parents=True)
        write_video(folder / "a.mp4", num_frames=5 + number)
    summary = extract_frames(folders, work, FOUR)
    assert {Path(video.path).parent: (video.split, video.label) for video in summary.videos} == {
        folder: (folder.parent.name, folder.name) for folder in folders
    }


def test_nothing_named_is_refused(tmp_path: Path, work: Path) -> None:
    with pytest.raises(ConfigError, match="no videos found; pass video files or folders"):
        extract_frames([tmp_path], work)
    assert not work.exists()


def test_wrong_labels_are_refused_before_overwrite_discards_anything(videos: Path, work: Path, tmp_path: Path) -> None:
    extract_frames([videos], work, FOUR)
    before = stage_content(work / "extract-frames")
    labels = tmp_path / "labels.csv"
    labels.write_text("video,label\nnobody.mp4,real\n")
    with pytest.raises(DatasetError, match="names none of the 3 inputs"):
        extract_frames([videos], work, FOUR, RunOptions(overwrite=True), labels=labels)
    assert stage_content(work / "extract-frames") == before
