"""`train` from faces to a checkpoint: resumable to the bit, strict about its settings, blind to the test split."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines import (
    ImportConfig,
    PredictConfig,
    TrainConfig,
    TrainOptions,
    import_faces,
    inspect,
    make_train_config,
    predict_faces,
    train,
)
from pipelines.checkpoints.checkpoint import read_header
from pipelines.errors import (
    CheckpointError,
    ConfigError,
    DatasetError,
    ManifestError,
    SettingsChangedError,
    StorageError,
    TrainingDivergedError,
)
from pipelines.models import build_model
from pipelines.records import EpochRow, schema_of, table_to_rows
from pipelines.system.progress import Progress
from pipelines.training.settings import replace_settings
from pipelines.workspace.manifest import read_provenance, read_table, write_table
from tests.conftest import CROP_BOX
from tests.support import make_noise, temporary_files, write_faces_parquet

TINY = make_train_config(
    "paper",
    {"agda.last_epochs": 1},
    backbone="mobilenetv2_imagenet",
    num_attentions=2,
    mid_features=16,
    drop_path_rate=0.1,
    input_size=32,
    crop_box=CROP_BOX,
    epochs=3,
    backbone_epochs=1,
    samples_per_epoch=8,
    batch_size=4,
    ema_decay=0.5,
    schedule="cosine",
)
WEIGHTS = ("best.safetensors", "last.safetensors")
MANIFESTS = ("videos.parquet", "manifest.parquet")


@pytest.fixture
def work(imported_faces: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(imported_faces, tmp_path / "work"))


@pytest.fixture(scope="module")
def undisturbed(imported_faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing has interrupted."""
    work = Path(shutil.copytree(imported_faces, tmp_path_factory.mktemp("undisturbed") / "work"))
    return train(work, TINY).folder


def _change(**settings: Any) -> TrainConfig:
    return replace_settings(TINY, settings)


def _assert_same_run(folder: Path, other: Path) -> None:
    for name in (*WEIGHTS, *MANIFESTS):
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name


def _interrupt_at(epoch: int) -> Callable[[Progress], None]:
    """Raises in the first batch of an epoch."""

    def on_progress(event: Progress) -> None:
        if event.note.startswith(f"epoch {epoch}/"):
            raise KeyboardInterrupt

    return on_progress


def test_a_run_leaves_checkpoints_state_sides_and_a_row_per_epoch(undisturbed: Path) -> None:
    assert sorted(path.name for path in undisturbed.iterdir()) == sorted(
        (*WEIGHTS, *MANIFESTS, "last.state.pt", "log.csv", "attention", "tensorboard")
    )
    assert undisturbed.parts[-2:] == ("train", "default")
    table = read_table(undisturbed / "manifest.parquet")
    assert table.column_names == schema_of(EpochRow).names
    rows = table_to_rows(table, EpochRow)
    assert [(row.epoch, row.phase, row.images) for row in rows] == [
        (1, "backbone", 8), (2, "network", 8), (3, "network", 8),
    ]  # fmt: skip
    assert [row.train_auxiliary is not None for row in rows] == [False, True, True]
    assert [row.train_ce_augmented is not None for row in rows] == [False, False, True]
    assert rows[1].is_best
    assert temporary_files(undisturbed) == []


def test_the_checkpoint_holds_contract_and_provenance(undisturbed: Path) -> None:
    header = read_header(undisturbed / "best.safetensors")
    assert header.model == "multi-attention/paper"
    assert header.model_config["num_attentions"] == 2
    contract = header.preprocessing
    assert (contract.input_size, contract.crop_box, contract.margin) == (32, CROP_BOX, 1.0)
    assert contract.class_names == ("real", "fake")
    assert contract.mean == pytest.approx((0.485, 0.456, 0.406))
    assert contract.detector_sha256 == ""
    settings = header.provenance["settings"]
    assert (settings["epochs"], settings["agda.last_epochs"], settings["crop_box"]) == (3, 1, list(CROP_BOX))
    assert settings["precision"] == "float32"
    assert header.provenance["upstream"]["stage"] == "import-faces"
    assert header.provenance["epoch"] in (2, 3)
    state = torch.load(undisturbed / "last.state.pt", weights_only=True)
    assert len(state["rows"]) == 3


def test_the_checkpoint_scores_faces(undisturbed: Path, work: Path) -> None:
    summary = predict_faces(work, PredictConfig(checkpoint=str(undisturbed / "best.safetensors")))
    scored = [row.fake_probability for row in summary.rows if row.status == "ok"]
    assert len(scored) == 9 and all(value is not None and 0 <= value <= 1 for value in scored)


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_run_that_was_interrupted_equals_the_undisturbed_one(undisturbed: Path, work: Path, epoch: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(work, TINY, on_progress=_interrupt_at(epoch))
    folder = work / "train" / "default"
    assert not (folder / "manifest.parquet").exists()
    assert (folder / "last.state.pt").exists() == (epoch > 1)
    torch.manual_seed(1234)
    events: list[Progress] = []
    train(work, TINY, on_progress=events.append)
    assert events[0].done == (epoch - 1) * 2 + 1
    _assert_same_run(folder, undisturbed)
    assert temporary_files(work) == []


def test_the_number_of_threads_changes_nothing(undisturbed: Path, work: Path) -> None:
    _assert_same_run(train(work, TINY, TrainOptions(workers=1)).folder, undisturbed)


def test_a_finished_run_is_not_trained_again(undisturbed: Path, work: Path) -> None:
    shutil.copytree(undisturbed, work / "train" / "default")
    events: list[Progress] = []
    summary = train(work, TINY, on_progress=events.append)
    assert events == []
    assert (len(summary.epochs), summary.train_videos, summary.val_videos) == (3, 4, 2)
    assert summary.best.phase == "network" and summary.checkpoint == summary.folder / "best.safetensors"
    _assert_same_run(summary.folder, undisturbed)


def test_a_lost_manifest_is_written_again(undisturbed: Path, work: Path) -> None:
    shutil.copytree(undisturbed, work / "train" / "default")
    (work / "train" / "default" / "manifest.parquet").unlink()
    _assert_same_run(train(work, TINY).folder, undisturbed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epochs": 4}, "epochs was 3 and is now 4"),
        ({"learning_rate": 0.01}, "learning_rate was 0.001 and is now 0.01"),
        ({"seed": 1}, "seed was 0 and is now 1"),
        ({"crop_box": (82, 108, 298, 324)}, r"crop_box was \[94, 118, 286, 310\] and is now \[82, 108, 298, 324\]"),
    ],
)
def test_a_changed_setting_is_refused_by_name(
    undisturbed: Path, work: Path, changed: dict[str, Any], message: str
) -> None:
    folder = Path(shutil.copytree(undisturbed, work / "train" / "default"))
    with pytest.raises(SettingsChangedError, match=f"{message}; pass --overwrite or another --run name"):
        train(work, _change(**changed))
    _assert_same_run(folder, undisturbed)


def _record_as_before(folder: Path, **settings: Any) -> None:
    """The run as an older version recorded it: `None` leaves a setting out."""
    for path in folder.glob("*.parquet"):
        given = read_provenance(path)
        recorded = {name: value for name, value in (given.settings | settings).items() if value is not None}
        write_table(read_table(path), path, replace(given, settings=recorded))


def test_a_run_of_an_older_version_resumes(undisturbed: Path, work: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(work, TINY, on_progress=_interrupt_at(2))
    later = dict.fromkeys(f"optimization.{name}" for name in ("sam", "warmup_share", "warmup_start"))
    later["optimization.freeze_backbone_epochs"] = None
    _record_as_before(work / "train" / "default", precision="32", swap_share=0.0, self_blend=None, **later)
    _assert_same_run(train(work, TINY).folder, undisturbed)


def test_a_finished_run_of_an_older_version_is_not_trained_again(undisturbed: Path, work: Path) -> None:
    folder = Path(shutil.copytree(undisturbed, work / "train" / "default"))
    _record_as_before(folder, precision="32", swap_share=0.0)
    events: list[Progress] = []
    assert len(train(work, TINY, on_progress=events.append).epochs) == 3 and events == []


@pytest.mark.parametrize(
    ("recorded", "message"),
    [
        ({"swap_share": 0.5}, "swap_share was 0.5 and is now 0.0"),
        ({"augment": "cameras"}, "augment was cameras and is now flip"),
        ({"precision": "16"}, "precision was float16 and is now float32"),
    ],
)
def test_a_run_with_a_removed_setting_is_read_but_not_resumed(
    undisturbed: Path, work: Path, recorded: dict[str, Any], message: str
) -> None:
    folder = Path(shutil.copytree(undisturbed, work / "train" / "default"))
    _record_as_before(folder, **recorded)
    with pytest.raises(SettingsChangedError, match=f"{message}; pass --overwrite or another --run name"):
        train(work, TINY)
    assert read_provenance(folder / "manifest.parquet").settings.items() >= recorded.items()
    assert "epochs" in str(inspect(folder / "manifest.parquet").facts)


def test_more_epochs_of_a_finished_run_name_the_way(undisturbed: Path, work: Path) -> None:
    folder = Path(shutil.copytree(undisturbed, work / "train" / "default"))
    with pytest.raises(SettingsChangedError) as refused:
        train(work, _change(epochs=4))
    assert str(refused.value).endswith(
        f"to train its weights further, pass --init {folder / 'last.safetensors'} --run OTHER"
    )
    with pytest.raises(SettingsChangedError) as refused:
        train(work, _change(epochs=2, backbone_epochs=1))
    assert "--init" not in str(refused.value)


def test_changed_faces_are_a_changed_setting(undisturbed: Path, work: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, work / "train" / "default")
    records = [
        {"image": make_noise(number), "label": label, "split": split}
        for number, (label, split) in enumerate([(a, b) for a in ("real", "fake") for b in ("train", "val")])
    ]
    source = write_faces_parquet(tmp_path / "other.parquet", records)
    import_faces(source, work, ImportConfig(as_is=True))
    with pytest.raises(SettingsChangedError, match="data_sha256 was .* and is now "):
        train(work, TINY)


def test_runs_of_other_names_and_overwritten_ones_start_anew(undisturbed: Path, work: Path) -> None:
    shutil.copytree(undisturbed, work / "train" / "default")
    short = _change(epochs=1, backbone_epochs=0)
    other = train(work, short, run="other run")
    assert other.folder.name == "other run" and len(other.epochs) == 1
    again = train(work, short, TrainOptions(overwrite=True))
    assert len(again.epochs) == 1
    assert read_provenance(again.folder / "manifest.parquet").settings["epochs"] == 1
    _assert_same_run(again.folder, other.folder)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../out", "/absolute"])
def test_a_run_has_a_plain_name(work: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="run must be a plain name without slashes, got"):
        train(work, TINY, run=name)
    assert not (work / "train").exists()


def test_a_damaged_state_is_refused_with_what_to_do(undisturbed: Path, work: Path) -> None:
    folder = Path(shutil.copytree(undisturbed, work / "train" / "default"))
    (folder / "last.state.pt").write_bytes((folder / "last.state.pt").read_bytes()[:5000])
    with pytest.raises(ManifestError, match="last.state.pt cannot be read .*; start the run again with --overwrite"):
        train(work, TINY)


def test_training_starts_from_backbone_weights_or_a_checkpoint(undisturbed: Path, work: Path, tmp_path: Path) -> None:
    short = _change(epochs=1, backbone_epochs=0, learning_rate=1e-9, ema_decay=0.0)
    backbone = _backbone_weights("mobilenetv2_imagenet")
    given = {f"module.{name}": value for name, value in backbone.items() if not name.startswith("classifier")}
    torch.save({"state_dict": given}, tmp_path / "backbone.pth")
    trained = load_file(
        train(work, replace(short, init=str(tmp_path / "backbone.pth")), run="a").folder / "last.safetensors"
    )
    assert torch.allclose(trained["backbone.net.conv_stem.weight"], backbone["conv_stem.weight"], atol=1e-6)

    init = undisturbed / "best.safetensors"
    trained = load_file(train(work, replace(short, init=str(init)), run="b").folder / "last.safetensors")
    assert torch.allclose(trained["classifier.2.weight"], load_file(init)["classifier.2.weight"], atol=1e-6)
    assert read_provenance(work / "train" / "b" / "manifest.parquet").settings["init_sha256"] is not None


def _backbone_weights(name: str) -> dict[str, torch.Tensor]:
    """As others would publish them: without the prefix of the project's classifier."""
    state = build_model(f"backbone/{name}").state_dict()
    return {key.removeprefix("net."): value for key, value in state.items()}


def _other_backbone() -> dict[str, torch.Tensor]:
    return _backbone_weights("mobilenetv3_small_050")


def _other_shape() -> dict[str, torch.Tensor]:
    state = _backbone_weights("mobilenetv2_imagenet")
    return {**state, "conv_stem.weight": torch.zeros(16, 3, 3, 3)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_other_backbone, "does not fit the network: missing: .*; unexpected: .*; check --backbone"),
        (_other_shape, "(?s)does not fit the network: .*size mismatch for conv_stem.weight"),
    ],
)
def test_weights_of_another_backbone_are_refused(
    work: Path, tmp_path: Path, make: Callable[[], dict[str, torch.Tensor]], message: str
) -> None:
    save_file(make(), tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=message):
        train(work, _change(init=str(tmp_path / "other.safetensors")))


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("missing.pth", "missing.pth is neither a file nor a known checkpoint"),
        ("retinaface-mobilenet0.25", "is a detector, not a checkpoint"),
    ],
)
def test_missing_or_foreign_initial_weights_are_refused(work: Path, init: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        train(work, _change(init=init))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"backbone": "no_such_net"},
            "no_such_net cannot be trained at .* px with these settings: timm has no network 'no_such_net'",
        ),
        ({"texture_tap": "L99"}, "cannot be trained at .* px with these settings: .* has no tap 'L99'; it has L1"),
    ],
)
def test_a_network_that_can_not_be_built_is_refused(work: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(work, _change(**changed))


def test_a_loss_that_is_no_number_ends_the_run_with_what_to_do(work: Path) -> None:
    with pytest.raises(TrainingDivergedError, match="the loss became .* in epoch 1, batch . .* with a lower --lr"):
        train(work, _change(learning_rate=1e30, schedule="constant", samples_per_epoch=16))


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([(None, None)], "no labelled video with a face; give labels with --labels, or folders named real and fake"),
        ([("real", None)] * 4, "no fake video for training"),
        ([("real", "train"), ("fake", "train"), ("real", "val")], "no fake video for validation"),
        ([("real", "test"), ("fake", "test")], "no real video for training"),
    ],
)
def test_faces_that_can_not_be_split_are_refused(
    tmp_path: Path, records: list[tuple[str | None, str | None]], message: str
) -> None:
    source = write_faces_parquet(
        tmp_path / "f.parquet",
        [{"image": make_noise(n), "label": label, "split": split} for n, (label, split) in enumerate(records)],
    )
    import_faces(source, tmp_path / "work", ImportConfig(as_is=True))
    with pytest.raises(DatasetError, match=message):
        train(tmp_path / "work", TINY)


def test_a_workspace_without_faces_is_refused(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with pytest.raises(ManifestError, match="detect-faces has not been run in .*; run: deepfake detect-faces"):
        train(tmp_path / "work", TINY)


def test_a_run_folder_that_can_not_be_made_is_a_storage_error(work: Path) -> None:
    (work / "train").write_text("no folder")
    with pytest.raises(StorageError, match="could not write .*videos.parquet"):
        train(work, TINY)


def test_what_can_not_be_built_neither_locks_a_run_nor_costs_the_one_that_is_there(
    work: Path, undisturbed: Path
) -> None:
    with pytest.raises(ConfigError, match="no network 'nosuch'"):
        train(work, _change(backbone="nosuch"))
    folder = train(work, TINY).folder
    with pytest.raises(ConfigError, match="unknown device"):
        train(work, TINY, TrainOptions(overwrite=True, device="nosuch"))
    _assert_same_run(folder, undisturbed)
