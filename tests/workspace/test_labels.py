"""A labels file says the same whichever program has written it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.workspace.labels import VideoLabel, read_labels

NAMES = {Path("/in/m1/a.mp4"): "m1/a.mp4", Path("/in/m2/a.mp4"): "m2/a.mp4", Path("/in/m2/b.mp4"): "m2/b.mp4"}
A, OTHER_A, B = NAMES


def _write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode("utf-8-sig"))
    return path


@pytest.mark.parametrize(
    "text",
    [
        "video;label;split\nm1/a.mp4;real;train\nb.mp4;fake;test\n",
        "video\tlabel\tsplit\nm1/a.mp4\treal\ttrain\nb.mp4\tfake\ttest\n",
        " Video ,LABEL,Split\r\nm1/a.mp4, Real ,TRAIN\r\nb.mp4,FAKE,test \r\n",
        "video,label,split\nm1\\a.mp4,real,train\nm2\\b.mp4,fake,test\n",
        '"video";"label";"split"\n"m1/a.mp4";"real";"train"\n"b.mp4";"fake";"test"\n;;\n',
        "video,label,split\nm1/a.mp4,real,train\nm1/a.mp4,real,train\nb.mp4,fake,test\n",
        "label,split,video\nreal,train,m1/a.mp4\nfake,test,b.mp4\nreal\n",
    ],
    ids=["semicolons", "tabs", "spaces and capitals", "backslashes", "quotes", "a row twice", "a short row"],
)
def test_a_labels_file_may_be_written_by_a_spreadsheet(tmp_path: Path, text: str) -> None:
    found = read_labels(_write(tmp_path / "labels.csv", text), NAMES)
    assert found == {A: VideoLabel("real", "train"), B: VideoLabel("fake", "test")}


def test_an_original_may_be_named_with_backslashes(tmp_path: Path) -> None:
    text = "video,label,original\nm1/a.mp4,real,\nb.mp4,fake,m1\\a.mp4\n"
    assert read_labels(_write(tmp_path / "labels.csv", text), NAMES)[B].original == "m1/a.mp4"


def test_an_input_whose_name_holds_a_backslash_is_found_by_it(tmp_path: Path) -> None:
    labels = _write(tmp_path / "labels.csv", "video,label\nx\\a.mp4,real\n")
    assert read_labels(labels, {A: "x\\a.mp4"}) == {A: VideoLabel("real")}


def test_a_mask_is_named_relative_to_the_labels_file(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    text = "video,label,mask\nm1/a.mp4,fake,../masks/a.mp4\nb.mp4,fake,/elsewhere/b.mp4\nm2/a.mp4,fake,\n"
    found = read_labels(_write(tmp_path / "lists" / "labels.csv", text), NAMES)
    assert [found[path].mask for path in (A, B, OTHER_A)] == [f"{tmp_path}/masks/a.mp4", "/elsewhere/b.mp4", None]
