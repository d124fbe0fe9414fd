"""`deepfake index`: arguments, output, and the exit codes of its checks."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from deepfake_cli.commands.index import index
from pipelines.config import IndexConfig
from pipelines.datasets.table import DATASETS
from pipelines.workspace.folder import StageFolder
from tests.conftest import Deepfake
from tests.datasets.trees import make_video

COLUMNS = "path,label,split,original,identity,group"
SOUND = (
    "a.mp4,real,train,,Anna,g",
    "a-fake.mp4,fake,train,a,Anna;Ben,g",
    "b.mp4,real,val,,Cleo,",
    "b-fake.mp4,fake,val,b,Cleo,",
    "c.mp4,real,test,,Dora,h",
    "c-fake.mp4,fake,test,c,Dora,h",
)
COUNTS = "train  1 real  1 fake\nval    1 real  1 fake\ntest   1 real  1 fake\n"


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos without a list: three originals with a fake each, three others, a copy of the first and a broken one."""
    folder = tmp_path_factory.mktemp("videos")
    for seed, name in enumerate(("a", "a-fake", "b", "b-fake", "c", "c-fake", "x", "y", "z")):
        make_video(folder / f"{name}.mp4", seed=seed)
    make_video(folder / "copy.mp4", seed=0)
    (folder / "broken.mp4").write_bytes(b"")
    return folder


def _list(folder: Path, name: str, *lines: str) -> Path:
    path = folder / f"{name}.csv"
    path.write_text("\n".join((COLUMNS, *lines)) + "\n")
    return path


def _table(stdout: str) -> dict[str, str]:
    """The outcome of each check, by its name."""
    lines = stdout.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("check "))
    rows = [re.split(" {2,}", line) for line in lines[start + 1 :] if not line.startswith(" ")]
    return {row[0]: row[3] for row in rows if len(row) == 4 and row[3] in ("ok", "note", "failed")}


def _failed(stdout: str) -> set[str]:
    return {name for name, outcome in _table(stdout).items() if outcome == "failed"}


def test_counts_by_side_and_label_are_printed(deepfake: Deepfake, videos: Path, tmp_path: Path) -> None:
    source = _list(videos, "sound", *SOUND)
    result = deepfake("index", "csv", source, "-w", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{COUNTS}index: 6 videos in {tmp_path / 'index'}\n"
    quiet = deepfake("index", "csv", source, "-w", tmp_path, "-q")
    assert (quiet.exit_code, quiet.stdout) == (0, "")


def test_a_sound_data_set_passes_the_check(deepfake: Deepfake, videos: Path, tmp_path: Path) -> None:
    source = _list(videos, "sound", *SOUND)
    result = deepfake("index", "csv", source, "-w", tmp_path, "--check")
    assert (result.exit_code, result.stderr) == (0, "")
    assert set(_table(result.stdout).values()) == {"ok"} and len(_table(result.stdout)) == 11
    assert COUNTS in result.stdout
    quiet = deepfake("index", "csv", source, "-w", tmp_path, "--check", "-q")
    assert (quiet.exit_code, quiet.stdout) == (0, "")
    digests = tmp_path / "index" / "digests.jsonl"
    assert len(digests.read_text().splitlines()) == 6
    assert deepfake("index", "csv", source, "-w", tmp_path, "--check", "--verify").exit_code == 0
    assert len(digests.read_text().splitlines()) == 12


@pytest.mark.parametrize(
    ("line", "name", "told"),
    [
        ("copy.mp4,real,test,,,", "leaks by content", "a (train), copy (test)"),
        ("x.mp4,fake,test,a,,", "leaks by original", "original 'a': a-fake and 1 more (train), x (test)"),
        ("x.mp4,real,test,,,g", "leaks by group", "group 'g': a-fake and 1 more (train), x (test)"),
        ("x.mp4,real,test,,Ben,", "leaks by identity", "identity 'Ben': a-fake (train), x (test)"),
    ],
)
def test_a_leak_ends_with_4_and_is_cured_by_dropping_or_dealing(
    deepfake: Deepfake, videos: Path, tmp_path: Path, line: str, name: str, told: str
) -> None:
    more = ("y.mp4,real,train,,,", "z.mp4,fake,train,,,")
    source = _list(videos, "leaky", *SOUND, *more, line)
    result = deepfake("index", "csv", source, "-w", tmp_path / "kept", "--check", "-q")
    assert result.exit_code == 4
    assert name in _failed(result.stdout) and told in " ".join(result.stdout.split())
    assert "remedy: --drop-leaks or --split deal, with --overwrite" in " ".join(result.stdout.split())
    assert max(map(len, result.stdout.splitlines())) <= 100
    assert len(StageFolder(tmp_path / "kept" / "index").read_videos()) == 9  # written before the check failed
    digests = (tmp_path / "kept" / "index" / "digests.jsonl").read_text()
    for cure in (["--drop-leaks"], ["--split", "deal", "--fractions", "0.4,0.3,0.3"]):
        cured = deepfake("index", "csv", source, "-w", tmp_path / "kept", "--check", "--overwrite", *cure)
        assert cured.exit_code == 0, cured.stdout
        assert (tmp_path / "kept" / "index" / "digests.jsonl").read_text() == digests  # nothing is hashed again
        assert _failed(cured.stdout) == set()
        assert ("dropped for leaks" in cured.stdout) == (cure[0] == "--drop-leaks")
        assert (", dealt in " in cured.stdout) == (cure[0] == "--split")
        if cure[0] == "--drop-leaks":
            dropped = StageFolder(tmp_path / "kept" / "index").read_videos()
            assert {row.video_key for row in dropped if row.split == "test"} >= {"c", "c-fake"}


@pytest.mark.parametrize(
    ("lines", "exit_code", "failed"),
    [
        (["broken.mp4,real,train,,,"], 3, {"readable files"}),
        (["gone.mp4,real,train,,,"], 3, {"missing files"}),
        (["copy.mp4,real,train,,,"], 0, set()),
        (["copy.mp4,fake,train,,,"], 4, {"copies with two labels"}),
        (["broken.mp4,real,train,,,", "x.mp4,real,val,,Anna,"], 4, {"readable files", "leaks by identity"}),
    ],
    ids=["unreadable", "missing", "a copy", "a copy with another label", "unreadable and a leak"],
)
def test_a_check_ends_with_the_code_of_the_worst_that_it_found(
    deepfake: Deepfake, videos: Path, tmp_path: Path, lines: Iterable[str], exit_code: int, failed: set[str]
) -> None:
    source = _list(videos, "faulty", *SOUND, *lines)
    result = deepfake("index", "csv", source, "-w", tmp_path, "--check")
    assert result.exit_code == exit_code, result.stdout
    assert _failed(result.stdout) == failed
    assert ("broken.mp4: unreadable: " in result.stderr) == ("readable files" in failed)
    rows = StageFolder(tmp_path / "index").read_videos()
    broken = [row for row in rows if row.status != "ok"]
    assert [row.status for row in broken] == ["unreadable"] * ("readable files" in failed)
    assert all(row.error for row in broken)
    without = deepfake("index", "csv", source, "-w", tmp_path)
    assert without.exit_code == 0
    assert ("warning: " in without.stderr) == ("missing files" in failed)


def test_videos_of_unknown_folders_are_a_note(deepfake: Deepfake, videos: Path, tmp_path: Path) -> None:
    for name in ("train/real/a", "train/fake/b", "test/real/c", "other/d"):
        make_video(tmp_path / "root" / f"{name}.mp4")
    result = deepfake("index", "folder", tmp_path / "root", "-w", tmp_path / "work", "--check")
    assert result.exit_code == 0
    assert _table(result.stdout)["unlisted files"] == "note" and "other/d.mp4" in result.stdout
    assert "train  1 real  1 fake\ntest   1 real  0 fake\nindex: 3 videos in " in result.stdout


def test_celeb_df_can_be_used_once_its_leaks_are_dropped(deepfake: Deepfake, tmp_path: Path) -> None:
    """Its official lists share people and originals between both sides."""
    root = tmp_path / "Celeb-DF-v2"
    names = [f"Celeb-real/id{person}_000{n}" for person in range(4) for n in range(2)]
    names += [f"Celeb-synthesis/id{a}_id{b}_000{n}" for a, b in ((0, 1), (1, 0), (2, 3), (3, 2)) for n in range(2)]
    for name in (*names, "YouTube-real/00000", "YouTube-real/00001"):
        make_video(root / f"{name}.mp4")
    tested = ["1 Celeb-real/id0_0000.mp4", "0 Celeb-synthesis/id0_id1_0000.mp4", "1 YouTube-real/00000.mp4"]
    (root / "List_of_testing_videos.txt").write_text("\n".join(tested) + "\n")
    result = deepfake("index", "celebdf-v2", root, "-w", tmp_path / "as-is", "--check", "-q")
    assert result.exit_code == 4
    assert _failed(result.stdout) == {"leaks by identity"}
    result = deepfake("index", "celebdf-v2", root, "-w", tmp_path / "dropped", "--check", "--drop-leaks")
    assert result.exit_code == 0, result.stdout
    assert "train     5 real  4 fake\ntest      2 real  1 fake\nno split  3 real  3 fake\n" in result.stdout
    assert "6 dropped for leaks" in result.stdout


def test_only_where_no_input_is_named_the_index_stands_for_it(deepfake: Deepfake, videos: Path, tmp_path: Path) -> None:
    deepfake("index", "csv", _list(videos, "sound", *SOUND), "-w", tmp_path)
    for nothing in ("", "\n"):  # what a search has found, which may be nothing
        refused = deepfake("extract-frames", "-", "-w", tmp_path, stdin=nothing)
        assert refused.exit_code == 2 and "no videos found" in refused.stderr
        assert not (tmp_path / "extract-frames").exists()
    extracted = deepfake("extract-frames", "-w", tmp_path, "--frames", 1)
    assert extracted.stdout.startswith("extract-frames: 6 videos (6 ok), 6 frames in ")


@pytest.mark.parametrize("name", list(DATASETS))
def test_download_help_says_where_to_ask_and_how_to_lay_out(deepfake: Deepfake, name: str) -> None:
    result = deepfake("index", name, "--download-help")
    assert result.exit_code == 0
    dataset = DATASETS[name]
    assert result.stdout.startswith(f"{dataset.title}\n\n{dataset.request}")
    assert all(line.strip() in result.stdout for line in dataset.layout.splitlines())


def test_download_help_without_a_name_lists_all(deepfake: Deepfake) -> None:
    result = deepfake("index", "--download-help")
    assert result.exit_code == 0
    assert [line.split("  ")[0] for line in result.stdout.splitlines()] == list(DATASETS)
    assert all(dataset.title in result.stdout for dataset in DATASETS.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing", "ROOT", "-w", "WORK"], "unknown data set 'nothing'; known: ffpp, dfd"),
        (["nothing", "--download-help"], "unknown data set 'nothing'; known: ffpp, dfd"),
        ([], "pass a dataset's name, its folder and -w WORKSPACE; names: deepfake index --download-help"),
        (["csv", "ROOT"], "pass a dataset's name, its folder and -w WORKSPACE"),
        (["csv", "-w", "WORK"], "pass a dataset's name, its folder and -w WORKSPACE"),
        (["csv", "ROOT", "-w", "WORK", "--fractions", "0.8,0.2"], "--fractions takes three numbers such as 0.8,0.1"),
        (["csv", "ROOT", "-w", "WORK", "--fractions", "a,b,c"], "--fractions takes three numbers such as 0.8,0.1"),
        (["csv", "ROOT", "-w", "WORK", "--fractions", "0.8,0.2,0.1"], "fractions must be three shares of train, val"),
        (["ffpp", "EMPTY", "-w", "WORK"], "deepfake index ffpp --download-help"),
    ],
)
def test_wrong_use_ends_with_2_and_one_line(
    deepfake: Deepfake, videos: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    values = {"ROOT": _list(videos, "sound", *SOUND), "WORK": tmp_path / "work", "EMPTY": tmp_path / "empty"}
    result = deepfake("index", *(values.get(argument, argument) for argument in arguments))
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and message in result.stderr
    assert not (tmp_path / "work").exists()


def test_a_changed_setting_is_refused_until_overwrite(deepfake: Deepfake, videos: Path, tmp_path: Path) -> None:
    arguments = ("index", "csv", _list(videos, "sound", *SOUND), "-w", tmp_path)
    assert deepfake(*arguments).exit_code == 0
    refused = deepfake(*arguments, "--split", "test")
    assert refused.exit_code == 2 and "split was auto and is now test; pass --overwrite" in refused.stderr
    again = deepfake(*arguments, "--split", "test", "--overwrite")
    assert again.exit_code == 0 and again.stdout.startswith("test  3 real  3 fake\n")


def test_the_default_of_split_is_that_of_the_settings() -> None:
    assert inspect.signature(index).parameters["split"].default == IndexConfig.split
