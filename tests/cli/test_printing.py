"""Results on a terminal: verdicts in colour, equal file names told apart; plain text everywhere else."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from deepfake_cli.printing import format_score, has_colours
from pipelines.records import ScoreRow
from tests.conftest import Deepfake
from tests.support import make_noise

ROW = ScoreRow(
    video="videos/real/clip.mp4", video_key="clip", sha256="", status="ok", fake_probability=0.9127, verdict="fake",
    threshold=0.5, frames=32, faces=32, tracks=1, model="", model_sha256="", settings_sha256="", error=None,
)  # fmt: skip


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("verdict", "code"), [("fake", 31), ("real", 32), ("uncertain", 33)])
def test_a_verdict_is_coloured_on_request_only(verdict: str, code: int) -> None:
    row = replace(ROW, verdict=verdict)
    assert format_score(row) == f"clip.mp4  0.913  {verdict}  32 frames, 1 person"
    assert format_score(row, colours=True) == f"clip.mp4  0.913  \x1b[{code}m{verdict}\x1b[0m  32 frames, 1 person"


@pytest.mark.parametrize(
    ("stdout", "variables", "expected"),
    [
        (_Terminal(), {}, True),
        (_Terminal(), {"NO_COLOR": "1"}, False),
        (_Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
        (None, {}, False),
    ],
    ids=["terminal", "NO_COLOR", "dumb", "pipe", "closed"],
)
def test_colours_need_a_terminal_that_wants_them(
    monkeypatch: pytest.MonkeyPatch, stdout: io.StringIO | None, variables: dict[str, str], expected: bool
) -> None:
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert has_colours() is expected


@pytest.mark.parametrize(
    ("video", "key", "name"),
    [
        ("videos/clip.mp4", "clip", "clip.mp4"),
        ("videos/real/clip.mp4", "real/clip", "real/clip.mp4"),
        ("a/clip.mp4", "a/clip.mp4", "a/clip.mp4"),
        ("/data/a/clip.mp4", "/data/a/clip.mp4", "/data/a/clip.mp4"),
        ("clip.mp4", "dataset/real/clip", "clip.mp4"),
        ("odd\n\x1b[31m.mp4", "odd", r"odd\n\x1b[31m.mp4"),
    ],
)
def test_a_video_is_named_with_the_folders_that_tell_it_apart(video: str, key: str, name: str) -> None:
    assert format_score(replace(ROW, video=video, video_key=key)).split("  ")[0] == name


def test_equal_file_names_are_told_apart_by_their_folder(
    deepfake: Deepfake, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, folder in enumerate(("real", "fake")):
        (tmp_path / "videos" / folder).mkdir(parents=True)
        (tmp_path / "videos" / folder / "clip.png").write_bytes(make_noise(number))
    monkeypatch.chdir(tmp_path)
    for inputs in (["videos"], ["videos/real/clip.png", "videos/fake/clip.png"]):
        lines = deepfake("predict", *inputs, "--checkpoint", checkpoint).stdout.splitlines()
        names = [line.split("  ")[0] for line in lines]
        assert len(set(names)) == 2 and all(name.endswith(("real/clip.png", "fake/clip.png")) for name in names)
