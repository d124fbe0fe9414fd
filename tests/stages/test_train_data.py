"""What `train` reads and what comes of it: the sides, leaks between them, baselines, initial weights, previews."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from safetensors.torch import load_file

from pipelines import (
    ImportConfig,
    PredictConfig,
    TrainConfig,
    TrainOptions,
    import_faces,
    make_train_config,
    predict_faces,
    preview_augmentations,
    train,
)
from pipelines.checkpoints.checkpoint import read_header
from pipelines.errors import ConfigError, DatasetError, LeakError, ManifestError, SettingsChangedError
from pipelines.faces.align import template_points
from pipelines.faces.crops import landmark_columns
from pipelines.records import EpochRow, VideoRow, table_to_rows
from pipelines.stages.train import make_contract
from pipelines.system.image_files import SEPARATOR_PX
from pipelines.training.settings import replace_settings
from pipelines.workspace.manifest import read_provenance, read_table, write_table
from tests.conftest import CROP_BOX
from tests.support import make_noise, temporary_files, write_faces_parquet

SETTINGS: dict[str, Any] = {
    "backbone": "mobilenetv2_imagenet",
    "drop_path_rate": 0.0,
    "input_size": 32,
    "crop_box": CROP_BOX,
    "epochs": 1,
    "samples_per_epoch": 8,
    "batch_size": 4,
}
SHORT = make_train_config("paper", SETTINGS | {"num_attentions": 2, "mid_features": 16})
RECORDS = [(label, split) for label in ("real", "fake") for split in ("train", "val", "test")]


@pytest.fixture
def work(imported_faces: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(imported_faces, tmp_path / "work"))


def _change(config: TrainConfig, **settings: Any) -> TrainConfig:
    return replace_settings(config, settings)


def _still(config: TrainConfig, **settings: Any) -> TrainConfig:
    """So slow that the weights stay those of the start."""
    return _change(config, learning_rate=1e-9, **settings)


def _import(tmp_path: Path, records: list[dict[str, Any]]) -> Path:
    source = write_faces_parquet(tmp_path / "f.parquet", records)
    import_faces(source, tmp_path / "leaky", ImportConfig(as_is=True))
    return tmp_path / "leaky"


def test_crops_of_the_split_test_are_never_read_but_counted(
    work: Path, imported_faces: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stage = work / "detect-faces"
    split_of = {row["video_id"]: row["split"] for row in read_table(stage / "videos.parquet").to_pylist()}
    crops = [row for row in read_table(stage / "manifest.parquet").to_pylist() if split_of[row["video_id"]] == "test"]
    assert len(crops) == 2
    for row in crops:
        (stage / row["crop_path"]).write_bytes(b"not to be read")
    with caplog.at_level(logging.INFO, "pipelines"):
        summary = train(work, SHORT)
    assert (summary.train_videos, summary.val_videos, summary.test_videos) == (4, 2, 2)
    assert "2 videos of the split test are not used" in caplog.messages
    videos = table_to_rows(read_table(summary.folder / "videos.parquet", VideoRow), VideoRow)
    assert {video.path: video.split for video in videos} == {
        "real/0": "train", "real/1": "train", "real/2": "val", "fake/0": "train", "fake/1": "train", "fake/2": "val",
    }  # fmt: skip
    rows = table_to_rows(read_table(summary.folder / "manifest.parquet"), EpochRow)
    assert {row.val_videos for row in rows} == {2}
    untouched = Path(shutil.copytree(imported_faces, tmp_path / "untouched"))
    assert train(untouched, SHORT).checkpoint.read_bytes() == summary.checkpoint.read_bytes()


LEAKS: dict[str, tuple[dict[str, Any], str]] = {
    "a content": ({"image": make_noise(0)}, "1 content on more than one side of train, val, test"),
    "an original": ({"original": "real/train"}, "1 original on more than one side of train, val, test"),
    "a person": ({"identity": "Ann"}, "1 identity on more than one side of train, val, test"),
}


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("case", LEAKS)
def test_a_leak_between_given_sides_ends_before_a_run_exists(tmp_path: Path, case: str, split: str) -> None:
    change, message = LEAKS[case]
    records: list[dict[str, Any]] = [
        {"image": make_noise(n), "video": f"{label}/{side}", "label": label, "split": side, "original": None,
         "identity": "Ann" if n == 0 else None}
        for n, (label, side) in enumerate(RECORDS)
    ]  # fmt: skip
    records[RECORDS.index(("fake" if case == "an original" else "real", split))] |= change
    work = _import(tmp_path, records)
    with pytest.raises(LeakError, match=message):
        train(work, SHORT)
    assert not (work / "train").exists()


def test_a_backbone_is_trained_saved_and_scores_faces(work: Path) -> None:
    summary = train(work, make_train_config("backbone", SETTINGS | {"epochs": 2, "backbone_epochs": 1}))
    assert [(row.phase, row.train_auxiliary, row.train_ce_augmented) for row in summary.epochs] == [
        ("network", None, None)
    ] * 2
    header = read_header(summary.checkpoint)
    assert header.model == "backbone/mobilenetv2_imagenet"
    assert not (summary.folder / "attention").exists() and (summary.folder / "log.csv").is_file()
    scores = predict_faces(work, PredictConfig(checkpoint=str(summary.checkpoint)))
    assert sum(row.status == "ok" and row.fake_probability is not None for row in scores.rows) == 9


def test_one_map_is_trained_without_auxiliary_loss_and_augmentation(work: Path) -> None:
    summary = train(work, _change(SHORT, num_attentions=1))
    (row,) = summary.epochs
    assert (row.train_auxiliary, row.train_ce_augmented, row.attention_cosine) == (None, None, None)
    assert list((summary.folder / "attention").iterdir())


def test_a_network_starts_from_a_backbone_and_a_backbone_from_a_network(work: Path) -> None:
    plain, stem = make_train_config("backbone", SETTINGS), "net.conv_stem.weight"
    backbone = train(work, plain, run="backbone").checkpoint
    network = train(work, _still(SHORT, init=str(backbone)), run="network").checkpoint
    again = train(work, _still(plain, init=str(network)), run="again").checkpoint
    weight = load_file(backbone)[stem]
    assert (load_file(network)[f"backbone.{stem}"] - weight).abs().max() < 1e-6
    assert (load_file(again)[stem] - weight).abs().max() < 1e-6
    settings = read_provenance(work / "train" / "network" / "manifest.parquet").settings
    assert (settings["init"], len(settings["init_sha256"])) == ("best.safetensors", 64)


def test_precision_is_recorded_as_what_it_came_to(work: Path) -> None:
    auto = train(work, SHORT, TrainOptions(device="cpu"))
    assert read_provenance(auto.folder / "manifest.parquet").settings["precision"] == "float32"
    assert train(work, replace(SHORT, precision="float32"), TrainOptions(device="cpu")).epochs == auto.epochs
    with pytest.raises(ConfigError, match="precision float16 needs a GPU; use float32 or bf16"):
        train(work, replace(SHORT, precision="float16"), TrainOptions(device="cpu"), run="other")
    assert not (work / "train" / "other").exists()


@pytest.mark.parametrize(
    ("settings", "options"),
    [({"crop_jitter": 0.5}, {}), ({"batch_size": 6}, {"devices": 2}), ({}, {"device": "nosuch"})],
    ids=["crop jitter", "batch", "device"],
)
def test_what_can_not_be_trained_costs_no_run_that_is_there(
    work: Path, settings: dict[str, Any], options: dict[str, Any]
) -> None:
    checkpoint = work / "train" / "default" / "best.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(b"of an earlier run")
    with pytest.raises(ConfigError):
        train(work, _change(SHORT, **settings), TrainOptions(overwrite=True, **{"device": "cpu"} | options))
    assert checkpoint.read_bytes() == b"of an earlier run"


@pytest.mark.parametrize("name", ["preview.png", "preview.jpg"])
@pytest.mark.parametrize("augment", ["none", "robust"])
def test_a_preview_shows_faces_and_makes_no_run(work: Path, tmp_path: Path, name: str, augment: str) -> None:
    path = preview_augmentations(work, tmp_path / name, _change(SHORT, augment=augment))
    picture = cv2.imread(str(path))
    assert path == tmp_path / name and picture.shape[1] > picture.shape[0] > 4 * 32 and picture.std() > 10
    assert not (work / "train").exists() and temporary_files(tmp_path) == []


def _rows_of_picture(path: Path) -> int:
    return int((cv2.imread(str(path)).shape[0] + SEPARATOR_PX) / (32 + SEPARATOR_PX))


def test_a_preview_shows_self_blends_where_they_are_trained_on(work: Path, tmp_path: Path) -> None:
    plain = preview_augmentations(work, tmp_path / "plain.png", SHORT)
    blends = preview_augmentations(work, tmp_path / "blends.png", _change(SHORT, self_blend=0.5))
    faces = _rows_of_picture(plain)
    reals = 3
    assert faces == 6 and _rows_of_picture(blends) == faces + 2 * reals
    before, after = cv2.imread(str(plain)), cv2.imread(str(blends))
    assert (after[: before.shape[0]] == before).all() and after[before.shape[0] :].std() > 10


def test_self_blends_lie_where_the_manifest_has_the_landmarks(work: Path, tmp_path: Path) -> None:
    config, path = _change(SHORT, self_blend=1.0), work / "detect-faces" / "manifest.parquet"
    table, provenance = read_table(path), read_provenance(path)
    pictures = [preview_augmentations(work, tmp_path / "unknown.png", config).read_bytes()]
    for moved in (0, 30):
        rows = [row | landmark_columns(template_points() + moved, "crop_px") for row in table.to_pylist()]
        write_table(pa.Table.from_pylist(rows, schema=table.schema), path, provenance)
        pictures.append(preview_augmentations(work, tmp_path / f"{moved}.png", config).read_bytes())
    assert pictures[2] != pictures[1]
    unknown, known, moved_away = (
        cv2.imdecode(np.frombuffer(each, np.uint8), cv2.IMREAD_COLOR).astype(float) for each in pictures
    )
    assert abs(unknown - known).mean() < 0.02 < 0.2 < abs(unknown - moved_away).mean()


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_self_blends_alone_train_without_fakes_but_not_half_of_them(tmp_path: Path, share: float) -> None:
    labels = [("real", "train"), ("real", "train"), ("real", "val"), ("fake", "val")]
    records = [
        {"image": make_noise(n), "video": str(n), "label": label, "split": split}
        for n, (label, split) in enumerate(labels)
    ]
    work, config = _import(tmp_path, records), _change(SHORT, self_blend=share)
    if share < 1:
        with pytest.raises(DatasetError, match=r"no fake video for training \(2 training, 2 validation videos\)"):
            train(work, config)
        return
    summary = train(work, config)
    assert (summary.train_videos, summary.val_videos, summary.epochs[0].images) == (2, 2, 8)
    assert read_header(summary.checkpoint).provenance["settings"]["self_blend"] == 1.0


def test_validation_needs_fakes_also_beside_self_blends(tmp_path: Path) -> None:
    labels = [("real", "train"), ("fake", "train"), ("real", "val")]
    records = [{"image": make_noise(n), "label": label, "split": split} for n, (label, split) in enumerate(labels)]
    with pytest.raises(DatasetError, match="no fake video for validation"):
        train(_import(tmp_path, records), _change(SHORT, self_blend=1.0))


def test_a_run_of_before_a_setting_existed_goes_on_unless_that_is_now_used(work: Path) -> None:
    folder = train(work, SHORT).folder
    expected = (folder / "best.safetensors").read_bytes()
    for path in (folder / "videos.parquet", folder / "manifest.parquet"):
        provenance = read_provenance(path)
        settings = {name: value for name, value in provenance.settings.items() if name != "self_blend"}
        write_table(read_table(path), path, replace(provenance, settings=settings))
    with pytest.raises(SettingsChangedError, match=r"self_blend was 0.0 and is now 0.25; pass --overwrite or another"):
        train(work, _change(SHORT, self_blend=0.25))
    train(work, SHORT)
    assert (folder / "best.safetensors").read_bytes() == expected
    assert read_provenance(folder / "manifest.parquet").settings["self_blend"] == 0.0


def test_a_preview_is_the_same_each_time(work: Path, tmp_path: Path) -> None:
    paths = [
        preview_augmentations(work, tmp_path / f"{number}.png", _change(SHORT, augment="robust", seed=number // 2))
        for number in range(3)
    ]
    first, again, other = (path.read_bytes() for path in paths)
    assert first == again != other


@pytest.mark.parametrize("name", ["preview.txt", "preview"])
def test_a_preview_of_another_kind_is_refused(work: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=f"--preview-augmentations writes a .png or .jpg, not '{name}'"):
        preview_augmentations(work, tmp_path / name, SHORT)
    assert not (tmp_path / name).exists()


def test_a_preview_needs_faces(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with pytest.raises(ManifestError, match="detect-faces has not been run in"):
        preview_augmentations(tmp_path / "work", tmp_path / "preview.png", SHORT)


def test_overwriting_does_not_delete_the_weights_to_start_from(work: Path) -> None:
    best = train(work, SHORT).checkpoint
    with pytest.raises(ConfigError, match=r"--overwrite would delete .*best.safetensors, which --init names"):
        train(work, _change(SHORT, init=str(best)), TrainOptions(overwrite=True))
    assert best.is_file()
    assert train(work, _change(SHORT, init=str(best)), run="next").checkpoint.is_file()


@pytest.mark.parametrize(
    "settings", [{"backbone": "vit_tiny_patch16_224"}, {"backbone": "swin_tiny_patch4_window7_224"}]
)
def test_a_network_that_takes_no_such_images_is_refused_before_a_run_exists(
    work: Path, settings: dict[str, Any]
) -> None:
    config = _change(SHORT, **settings, texture_tap="L1", attention_tap="L2")
    with pytest.raises(ConfigError, match=f"{settings['backbone']} cannot be trained at 32 px with these settings"):
        train(work, config)
    assert not (work / "train").exists()


@pytest.mark.parametrize(
    ("backbone", "mean"),
    [("tf_efficientnet_b0", 0.5), ("tf_efficientnet_b0.ns_jft_in1k", 0.485), ("tf_efficientnet_b0.ap_in1k", 0.5)],
)
def test_the_input_is_normalised_as_the_named_weights_expect(work: Path, backbone: str, mean: float) -> None:
    provenance = read_provenance(work / "detect-faces" / "manifest.parquet")
    assert make_contract(_change(SHORT, backbone=backbone), provenance).mean[0] == mean
    assert make_contract(_change(SHORT, backbone=backbone, normalization="imagenet"), provenance).mean[0] == 0.485
