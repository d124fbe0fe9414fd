"""`index` writes what a data set's lists say, deals what they leave open, and hands it on to the other stages."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines import ExtractConfig, IndexConfig, RunOptions, extract_frames, index_dataset
from pipelines.data.leaks import find_leaks
from pipelines.datasets.dataset import Dataset, Listing, Mismatch
from pipelines.datasets.table import DATASETS
from pipelines.errors import ConfigError, DatasetError, SettingsChangedError, StorageError
from pipelines.records import SPLITS, VideoRow
from pipelines.system.progress import Progress
from pipelines.workspace.folder import StageFolder
from pipelines.workspace.manifest import read_provenance
from tests.datasets.trees import make_video
from tests.support import make_noise, modification_times, temporary_files
from tests.synthetic import write_video


def _listed(key: str, label: str = "real", **fields: str | None) -> VideoRow:
    return VideoRow("", "", key, f"/data/{key}.mp4", label, dataset="toy", **fields)  # type: ignore[arg-type]


OFFICIAL = [
    _listed("z", split="test", identity="Anna"),
    _listed("a", split="train", identity="Ben"),
    _listed("a-fake", "fake", split="train", original="a", identity="Ben;Anna", method="swap"),
    _listed("m", split="val"),
    _listed("unlisted"),
]
FREE = [_listed(f"{label}{n}", label, group=f"g{n}") for n in range(20) for label in ("real", "fake")]


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes `toy` a known data set with this listing. The stage sees nothing else of a data set's module; files are only
    opened by a check."""

    def make(videos: list[VideoRow], *, official: bool = True, mismatches: tuple[Mismatch, ...] = ()) -> Path:
        listing = Listing(videos, list(mismatches), has_official_split=official)
        monkeypatch.setitem(DATASETS, "toy", Dataset("toy", "Toy", lambda root: listing, "", ""))
        return Path(__file__).parent

    return make


def _splits(videos: list[VideoRow]) -> dict[str, str | None]:
    return {video.video_key: video.split for video in videos}


def test_rows_are_those_of_the_listing_by_path_with_provenance(toy: Callable[..., Path], tmp_path: Path) -> None:
    summary = index_dataset("toy", toy(OFFICIAL), tmp_path / "work", IndexConfig(seed=3))
    folder = StageFolder(tmp_path / "work" / "index")
    expected = sorted(OFFICIAL, key=lambda video: video.path)
    assert folder.read_videos() == expected == summary.videos and summary.folder == folder.root
    provenance = read_provenance(folder.videos_path)
    assert (provenance.stage, provenance.version, provenance.upstream) == ("index", 1, None)
    assert provenance.settings == {
        "dataset": "toy", "split": "auto", "fractions": [0.8, 0.1, 0.1], "seed": 3, "drop_leaks": False,
    }  # fmt: skip
    assert (summary.dealt, summary.left_out, summary.dropped, summary.report) == (False, 0, 0, None)
    assert temporary_files(folder.root) == []
    assert [path.name for path in folder.root.iterdir()] == ["videos.parquet"]


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("auto", {"z": "test", "a": "train", "a-fake": "train", "m": "val", "unlisted": None}),
        ("train", dict.fromkeys(_splits(OFFICIAL), "train")),
        ("val", dict.fromkeys(_splits(OFFICIAL), "val")),
        ("test", dict.fromkeys(_splits(OFFICIAL), "test")),
        ("none", dict.fromkeys(_splits(OFFICIAL))),
    ],
)
def test_a_side_is_the_official_one_or_one_for_all(
    toy: Callable[..., Path], tmp_path: Path, split: Any, expected: dict[str, str | None]
) -> None:
    summary = index_dataset("toy", toy(OFFICIAL), tmp_path, IndexConfig(split=split))
    assert _splits(summary.videos) == expected and not summary.dealt


def test_counts_are_by_side_and_label(toy: Callable[..., Path], tmp_path: Path) -> None:
    assert index_dataset("toy", toy(OFFICIAL), tmp_path).counts == {
        "train": {"real": 1, "fake": 1},
        "val": {"real": 1, "fake": 0},
        "test": {"real": 1, "fake": 0},
        None: {"real": 1, "fake": 0},
    }


@pytest.mark.parametrize(
    ("videos", "official", "split"),
    [(FREE, False, "auto"), (FREE, False, "deal"), ([replace(v, split="test") for v in FREE], True, "deal")],
    ids=["no lists", "no lists, asked for", "asked for against the lists"],
)
def test_where_no_list_says_it_the_sides_are_dealt(
    toy: Callable[..., Path], tmp_path: Path, videos: list[VideoRow], official: bool, split: Any
) -> None:
    config = IndexConfig(split=split, fractions=(0.5, 0.25, 0.25))
    summary = index_dataset("toy", toy(videos, official=official), tmp_path, config)
    assert summary.counts == {
        "train": {"real": 10, "fake": 10}, "val": {"real": 5, "fake": 5}, "test": {"real": 5, "fake": 5},
    }  # fmt: skip
    assert summary.dealt and summary.left_out == 0
    parts = {side: [video for video in summary.videos if video.split == side] for side in SPLITS}
    assert find_leaks(parts) == []


def test_another_seed_deals_otherwise_and_the_same_seed_alike(toy: Callable[..., Path], tmp_path: Path) -> None:
    root = toy(FREE, official=False)
    dealt = [_splits(index_dataset("toy", root, tmp_path / f"{n}", IndexConfig(seed=n % 3)).videos) for n in range(4)]
    assert dealt[0] == dealt[3] and dealt[0] != dealt[1] != dealt[2]


def test_splits_of_some_videos_are_kept_and_the_others_get_none(
    toy: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    videos = [replace(video, split="test") if n < 4 else video for n, video in enumerate(FREE)]
    summary = index_dataset("toy", toy(videos, official=False), tmp_path)
    assert _splits(summary.videos) == _splits(videos) and not summary.dealt
    assert "36 of 40 videos have no split in the lists and get none" in caplog.text
    assert "--split deal --overwrite" in caplog.text


@pytest.mark.parametrize(
    ("videos", "fractions", "missing"),
    [
        (FREE[:4], (0.8, 0.1, 0.1), ["real video is dealt to test", "fake video is dealt to test"]),
        (FREE[:4], (0.5, 0.0, 0.5), []),
        (FREE[::2], (0.5, 0.5, 0.0), ["fake video is dealt to train", "fake video is dealt to val"]),
        (FREE, (0.8, 0.1, 0.1), []),
    ],
    ids=["two groups for three sides", "two groups for two sides", "no fakes", "enough"],
)
def test_a_side_that_gets_no_video_of_a_class_is_one_warning_with_the_remedy(
    toy: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture,
    videos: list[VideoRow], fractions: tuple[float, float, float], missing: list[str],
) -> None:  # fmt: skip
    index_dataset("toy", toy(videos, official=False), tmp_path, IndexConfig(fractions=fractions))
    remedy = "use other --fractions or another --seed, with --overwrite, or add videos"
    assert caplog.messages == [f"no {what}: too few are independent of the others; {remedy}" for what in missing]


def test_what_people_dealt_leave_out_is_counted(toy: Callable[..., Path], tmp_path: Path) -> None:
    people = [_listed(f"p{n}", identity=f"{n}") for n in range(12)]
    swaps = [
        _listed(f"s{a}-{b}", "fake", original=f"p{a}", identity=f"{a};{b}")
        for a in range(12)
        for b in range(12)
        if a != b
    ]
    config = IndexConfig(fractions=(0.4, 0.3, 0.3))
    summary = index_dataset("toy", toy([*people, *swaps], official=False), tmp_path, config)
    assert summary.left_out == sum(video.split is None for video in summary.videos) > 50
    assert all(summary.counts[side][label] for side in SPLITS for label in ("real", "fake"))


def test_videos_that_leak_lose_their_split_where_that_is_wanted(
    toy: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    summary = index_dataset("toy", toy(OFFICIAL), tmp_path, IndexConfig(drop_leaks=True))
    assert _splits(summary.videos) == {"z": "test", "a": "train", "a-fake": None, "m": "val", "unlisted": None}
    assert (summary.dropped, summary.left_out) == (1, 0)
    assert caplog.messages == [
        "no fake video is left in train: all 1 share something with what is held out; use --split deal --overwrite"
    ]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (IndexConfig(seed=1), "seed was 0 and is now 1"),
        (IndexConfig(split="deal"), "split was auto and is now deal"),
        (IndexConfig(fractions=(0.6, 0.2, 0.2)), r"fractions was \[0.8, 0.1, 0.1\] and is now \[0.6, 0.2, 0.2\]"),
        (IndexConfig(drop_leaks=True), "drop_leaks was False and is now True"),
    ],
)
def test_another_setting_is_refused_by_name_until_the_index_is_made_anew(
    toy: Callable[..., Path], tmp_path: Path, config: IndexConfig, message: str
) -> None:
    root = toy(FREE, official=False)
    before = index_dataset("toy", root, tmp_path).videos
    with pytest.raises(SettingsChangedError, match=f"{message}; pass --overwrite"):
        index_dataset("toy", root, tmp_path, config)
    assert StageFolder(tmp_path / "index").read_videos() == before
    assert [path.name for path in (tmp_path / "index").iterdir()] == ["videos.parquet"]
    index_dataset("toy", root, tmp_path, config, RunOptions(overwrite=True))
    assert index_dataset("toy", root, tmp_path, config).videos == StageFolder(tmp_path / "index").read_videos()


def test_with_the_same_settings_new_videos_are_taken_in(toy: Callable[..., Path], tmp_path: Path) -> None:
    index_dataset("toy", toy(OFFICIAL[:2]), tmp_path)
    index_dataset("toy", toy(OFFICIAL), tmp_path)
    assert len(StageFolder(tmp_path / "index").read_videos()) == 5


def test_mismatches_are_one_warning_a_kind(
    toy: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mismatches = (*(Mismatch("missing", f"list{n}", f"gone {n}") for n in range(3)), Mismatch("label", "x", "was fake"))
    summary = index_dataset("toy", toy(OFFICIAL, mismatches=mismatches), tmp_path)
    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "x: was fake",
        "list0: gone 0 (and 2 more of this kind: -v shows all)",
    ]
    assert summary.mismatches == list(mismatches)


def _broken(root: Path) -> Listing:
    raise NotADirectoryError(20, "Not a directory", str(root))


@pytest.mark.parametrize(
    ("videos", "message"),
    [
        ([], "no video of toy in .*; check the path .*deepfake index toy --download-help"),
        ([OFFICIAL[0], replace(OFFICIAL[1], video_key="z")], "lists the video_key z 2 times; please report"),
        ([OFFICIAL[0], replace(OFFICIAL[1], path=OFFICIAL[0].path)], "lists the path /data/z.mp4 2 times; please rep"),
    ],
)
def test_a_listing_that_is_empty_or_ambiguous_is_refused(
    toy: Callable[..., Path], tmp_path: Path, videos: list[VideoRow], message: str
) -> None:
    with pytest.raises(DatasetError, match=message):
        index_dataset("toy", toy(videos), tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_a_refused_root_leaves_an_index_that_is_to_be_made_anew(toy: Callable[..., Path], tmp_path: Path) -> None:
    before = index_dataset("toy", toy(OFFICIAL), tmp_path).videos
    with pytest.raises(DatasetError):
        index_dataset("toy", toy([]), tmp_path, options=RunOptions(overwrite=True))
    assert StageFolder(tmp_path / "index").read_videos() == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_workspace_that_is_a_file_can_not_be_written(
    toy: Callable[..., Path], tmp_path: Path, overwrite: bool
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StorageError, match="could not write .*file/.index"):
        index_dataset("toy", toy(OFFICIAL), tmp_path / "file", options=RunOptions(overwrite=overwrite))


@pytest.mark.parametrize(
    ("name", "root", "message"),
    [
        ("nothing", "", "unknown data set 'nothing'; known: ffpp, "),
        ("toy", "missing", "missing does not exist; pass the folder of toy .*deepfake index toy --download-help"),
        ("toy", "", "cannot be read as toy: Not a directory .*deepfake index toy --download-help"),
    ],
)
def test_an_unknown_name_or_an_unfit_root_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, root: str, message: str
) -> None:
    monkeypatch.setitem(DATASETS, "toy", Dataset("toy", "Toy", _broken, "", ""))
    with pytest.raises(DatasetError, match=message):
        index_dataset(name, tmp_path / root, tmp_path / "work")
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("name", list(DATASETS))
def test_every_data_set_says_what_an_empty_folder_or_a_file_lacks(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("nothing\n")
    for root in ("empty", "file", "missing"):
        message = root if name == "csv" else f"{root} .*deepfake index {name} --download-help"
        with pytest.raises(DatasetError, match=message):
            index_dataset(name, tmp_path / root, tmp_path / "work")


@pytest.mark.parametrize(
    "wrong",
    [
        {"fractions": (0.8, 0.1, 0.2)}, {"fractions": (1.1, -0.1, 0.0)}, {"fractions": (0.5, 0.5)},
        {"fractions": (float("nan"), 0.5, 0.5)}, {"split": "some"},
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        IndexConfig(**wrong)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV that says all there is to say of four videos of ten frames."""
    folder = tmp_path_factory.mktemp("labelled")
    lines = ["path,label,split,original,identity,group,dataset,method,compression,mask"]
    for number, split in enumerate(("train", "test")):
        for label in ("real", "fake"):
            write_video(folder / f"{label}{number}.mp4", num_frames=10 + 2 * number + (label == "fake"), size=(64, 48))
            write_video(folder / f"mask-{label}{number}.mp4", num_frames=3, size=(64, 48))
            rest = f",{split},real{number},p{number},g{number},toy,swap,c23,mask-{label}{number}.mp4"
            lines.append(f"{label}{number}.mp4,{label}{rest}")
    (folder / "videos.csv").write_text("\n".join(lines) + "\n")
    return folder / "videos.csv"


def test_a_check_hashes_and_opens_and_is_not_done_twice(labelled: Path, tmp_path: Path) -> None:
    events: list[Progress] = []
    summary = index_dataset("csv", labelled, tmp_path, check=True, on_progress=events.append)
    assert summary.report is not None and {check.outcome for check in summary.report.checks} == {"ok"}
    rows = StageFolder(tmp_path / "index").read_videos()
    assert all(len(row.sha256) == 64 and row.video_id == row.sha256[:16] for row in rows)
    assert [(event.task, event.done) for event in events] == [("index", n) for n in range(1, 5)]
    digests = tmp_path / "index" / "digests.jsonl"
    before = modification_times([digests])
    again = index_dataset("csv", labelled, tmp_path, check=True)
    assert again.videos == rows and modification_times([digests]) == before
    index_dataset("csv", labelled, tmp_path, options=RunOptions(overwrite=True), check=True)
    assert modification_times([digests]) == before
    index_dataset("csv", labelled, tmp_path, options=RunOptions(verify=True), check=True)
    assert len(digests.read_text().splitlines()) == 8


@pytest.mark.parametrize("options", [RunOptions(), RunOptions(overwrite=True), RunOptions(verify=True)])
def test_copies_that_a_check_has_found_stay_on_one_side_in_a_run_without_it(
    tmp_path: Path, options: RunOptions
) -> None:
    root = tmp_path / "videos"
    for number in range(24):
        make_video(root / ("real", "fake")[number % 2] / f"{number}.mp4", seed=number % 12)
    config = IndexConfig(fractions=(0.4, 0.3, 0.3))
    checked = index_dataset("folder", root, tmp_path, config, check=True).videos
    again = index_dataset("folder", root, tmp_path, config, options).videos
    assert again == checked == StageFolder(tmp_path / "index").read_videos()
    assert len({row.sha256 for row in again}) == len({(row.sha256, row.split) for row in again}) == 12
    blind = index_dataset("folder", root, tmp_path / "blind", config).videos
    assert {row.sha256 for row in blind} == {""} and _splits(blind) != _splits(again)
    make_video(root / "real" / "0.mp4", seed=99)
    changed = index_dataset("folder", root, tmp_path, config, options).videos
    assert [Path(row.path).name for row in changed if not row.sha256] == ["0.mp4"]


def test_extract_frames_goes_on_with_the_index(labelled: Path, tmp_path: Path) -> None:
    indexed = index_dataset("csv", labelled, tmp_path, check=True).videos
    summary = extract_frames(None, tmp_path, ExtractConfig(frames=4))
    assert [(row.status, row.rows) for row in summary.videos] == [("ok", 4)] * 4
    assert [replace(row, rows=0) for row in summary.videos] == indexed
    fake = next(row for row in summary.videos if row.video_key == "fake1")
    assert (fake.label, fake.split, fake.original, fake.identity, fake.group) == ("fake", "test", "real1", "p1", "g1")
    assert (fake.dataset, fake.method, fake.compression) == ("toy", "swap", "c23")
    assert fake.mask == (labelled.parent / "mask-fake1.mp4").as_posix()
    assert not (tmp_path / "extract-frames" / "digests.jsonl").exists()  # all digests are the index's


def test_one_split_of_the_index_is_extracted(labelled: Path, tmp_path: Path) -> None:
    index_dataset("csv", labelled, tmp_path)
    summary = extract_frames(None, tmp_path, ExtractConfig(frames=2), splits=["test"])
    assert [row.video_key for row in summary.videos] == ["fake1", "real1"]


def test_a_data_set_of_cropped_faces_is_checked_by_its_pictures(tmp_path: Path) -> None:
    for number, name in enumerate(("real_train", "fake_train", "real_test", "fake_test")):
        folder = tmp_path / "root" / name / "1" / "0"
        folder.mkdir(parents=True)
        (folder / "0.png").write_bytes(make_noise(number))
    (tmp_path / "root" / "fake_test" / "1" / "0" / "0.png").write_bytes(b"broken")
    summary = index_dataset("wilddeepfake", tmp_path / "root", tmp_path / "work", check=True)
    assert sorted((row.split, row.label, row.status) for row in summary.videos) == [
        ("test", "fake", "unreadable"),
        ("test", "real", "ok"),
        ("train", "fake", "ok"),
        ("train", "real", "ok"),
    ]
    assert [row.path for row in summary.failures] == [(tmp_path / "root" / "fake_test" / "1" / "0").as_posix()]
    assert summary.report is not None and summary.report.is_incomplete


def test_a_folder_of_ones_own_is_dealt(tmp_path: Path) -> None:
    for number in range(12):
        make_video(tmp_path / "videos" / ("real", "fake")[number % 2] / f"{number}.mp4", seed=number)
    config = IndexConfig(fractions=(0.5, 0.25, 0.25))
    summary = index_dataset("folder", tmp_path / "videos", tmp_path / "work", config)
    assert summary.dealt and summary.counts.keys() == set(SPLITS)
    assert all(summary.counts[side][label] for side in SPLITS for label in ("real", "fake"))
