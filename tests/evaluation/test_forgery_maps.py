"""Maps of a workspace's faces against their masks, from files to the report: the same figures as computed face by face."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn import metrics

from pipelines import EvaluateConfig, ImportConfig, RunOptions, evaluate, import_faces
from pipelines.checkpoints.checkpoint import CheckpointHeader, load_checkpoint, save_checkpoint
from pipelines.checkpoints.preprocessing import Preprocessing, cut_input, to_network_input
from pipelines.errors import ConfigError, DatasetError, InputError
from pipelines.evaluation.forgery_maps import Locator, cut_mask, scale_attention
from pipelines.models import build_model, model_config
from pipelines.records import FaceRow, rows_to_table, table_to_rows
from pipelines.system.image_files import read_image, write_image
from pipelines.system.progress import Progress
from pipelines.workspace.manifest import read_provenance, read_table, write_table
from tests.conftest import CROP_BOX, INPUT_SIZE, Deepfake
from tests.evaluation.tables import face_row, score_row, write_plain_details, write_score_file
from tests.networks import random_images, settle
from tests.support import encode_png, write_faces_parquet

Array = npt.NDArray[Any]
CONTRACT = Preprocessing(input_size=INPUT_SIZE, crop_box=CROP_BOX)
QUICK = EvaluateConfig(bootstrap=0, localisation=True, split="all")
SIZE_PX = 380


def _save(path: Path, name: str, **settings: Any) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_model(name, **settings)
        images = random_images(4, INPUT_SIZE)
        settle(network, lambda: network(images))
    with torch.no_grad():
        dense = network(images).dense
        if dense is not None:  # the branch begins with "hardly anything is forged"
            last = network.mask[-1]  # type: ignore[index]
            last.bias -= dense.mask.median()
            last.weight *= 20
            last.bias *= 20
    save_checkpoint(path, network.state_dict(), CheckpointHeader(name, model_config(network), CONTRACT))
    return path


@pytest.fixture(scope="module")
def with_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network with a forgery map and random weights."""
    settings: dict[str, Any] = {"backbone": "mobilenetv2_imagenet", "width": 16, "layers": 1}
    path = tmp_path_factory.mktemp("networks") / "map.safetensors"
    return _save(path, "f-bifpn-mtlnet/small", **settings, consistency="none")


def _ellipse(center: tuple[int, int], axes: tuple[int, int]) -> Array:
    mask = np.zeros((SIZE_PX, SIZE_PX), np.uint8)
    cv2.ellipse(mask, center, axes, 0, 0, 360, 255, -1)
    return cv2.GaussianBlur(mask, (0, 0), 4)


MASKS = [_ellipse((190, 210), (40, 30)), _ellipse((150, 180), (30, 50)), _ellipse((230, 260), (30, 20))]


def set_masks(workspace: Path, masks: Sequence[Array | None]) -> list[FaceRow]:
    """Write a mask for each face of a fake, in the order of the manifest; the rows of the fakes."""
    folder = workspace / "detect-faces"
    path = folder / "manifest.parquet"
    fakes = _ids(workspace, "fake")
    rows = table_to_rows(read_table(path, FaceRow), FaceRow)
    places = [place for place, row in enumerate(rows) if row.video_id in fakes]
    for place, mask in zip(places, masks, strict=True):
        name = rows[place].crop_path.removesuffix(".png") + "_mask.png"
        rows[place] = replace(rows[place], mask_path=None if mask is None else name)
        if mask is not None:
            cv2.imwrite(str(folder / name), mask)
    write_table(rows_to_table(rows, FaceRow), path, read_provenance(path))
    return [rows[place] for place in places]


def _ids(workspace: Path, label: str) -> list[str]:
    videos = read_table(workspace / "detect-faces" / "videos.parquet").to_pylist()
    return [video["video_id"] for video in videos if video["label"] == label]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, face_pictures: dict[str, list[Array]]) -> Path:
    """A fake video of two faces, two of one, two real videos; three fake faces have masks, one has none."""
    folder = tmp_path_factory.mktemp("located")
    names = {"real": ("r0", "r1", "r1", "r1"), "fake": ("f0", "f0", "f1", "f2")}
    method_of = {"f0": "swap", "f1": "swap", "f2": "lips"}
    records = [
        {"image": encode_png(picture), "video": name, "label": label, "method": method_of.get(name)}
        for label, pictures in face_pictures.items()
        for name, picture in zip(names[label], pictures, strict=True)
    ]
    import_faces(write_faces_parquet(folder / "f.parquet", records), folder / "work", ImportConfig(as_is=True))
    set_masks(folder / "work", [MASKS[0], MASKS[1], MASKS[2], None])
    return folder / "work"


@pytest.fixture
def work(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "work"))


def _rows_of(workspace: Path, label: str) -> list[FaceRow]:
    rows = table_to_rows(read_table(workspace / "detect-faces" / "manifest.parquet", FaceRow), FaceRow)
    return [row for row in rows if row.video_id in _ids(workspace, label)]


def _expected_map(network: torch.nn.Module, workspace: Path, row: FaceRow) -> Array:
    crop = read_image(workspace / "detect-faces" / row.crop_path)
    with torch.inference_mode():
        output = network(to_network_input([cut_input(crop, CONTRACT)], CONTRACT))
    if output.forgery_map is not None:
        found = output.forgery_map[0].numpy()
    else:
        found = output.attention_maps[0].sum(dim=0).numpy()
        found = found / found.max()
    return np.asarray(cv2.resize(found, (INPUT_SIZE, INPUT_SIZE), interpolation=cv2.INTER_LINEAR))


def _expected_mask(mask: Array) -> npt.NDArray[np.bool_]:
    x0, y0, x1, y1 = CROP_BOX
    soft = mask[y0:y1, x0:x1].astype(float)
    blocks = soft.reshape(INPUT_SIZE, 3, INPUT_SIZE, 3).mean(axis=(1, 3))  # 192 pixels to 64
    return np.asarray(np.rint(blocks) >= 128)


def _expected(network: torch.nn.Module, workspace: Path, masks: Sequence[Array]) -> dict[str, float]:
    """Face by face; the videos have two, one and so on faces, as in `prepared`."""
    by_video: dict[str, list[tuple[float, float, float]]] = {}
    rows = [row for row in _rows_of(workspace, "fake") if row.mask_path]
    for row, mask in zip(rows, masks, strict=True):
        values, truth = _expected_map(network, workspace, row), _expected_mask(mask)
        auc = metrics.roc_auc_score(truth.ravel(), values.ravel())
        iou = metrics.jaccard_score(truth.ravel(), values.ravel() >= 0.5)
        by_video.setdefault(row.video_id, []).append((auc, iou, truth[values == values.max()].mean()))
    auc, iou, pointing = np.mean([np.mean(faces, axis=0) for faces in by_video.values()], axis=0)
    reals: dict[str, list[float]] = {}
    for row in _rows_of(workspace, "real"):
        reals.setdefault(row.video_id, []).append((_expected_map(network, workspace, row) >= 0.5).mean())
    marked = np.mean([np.mean(faces) for faces in reals.values()])
    return {"pixel_auc": auc, "iou": iou, "pointing": pointing, "marked_real": float(marked)}


def test_the_figures_are_those_of_the_networks_maps_face_by_face(prepared: Path, with_map: Path) -> None:
    report = evaluate(prepared, replace(QUICK, checkpoint=str(with_map)), RunOptions(batch_size=3))
    found = report.to_json()["localisation"]
    expected = _expected(load_checkpoint(with_map, build_model).network, prepared, MASKS)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=2e-3)
    assert 0.02 < expected["marked_real"] < 0.98 and expected["iou"] > 0.01  # the network marks a part
    assert found["best_iou"] >= found["iou"] and (found["maps"], found["size_px"]) == ("forgery map", INPUT_SIZE)
    assert (found["faces.fake"], found["videos.fake"], found["faces.real"], found["videos.real"]) == (3, 2, 4, 2)
    assert (found["masks.file"], found["masks.unknown"]) == (3, 1)
    assert [part["method"] for part in found["parts"]] == ["swap"]  # the one fake of the other method has no mask
    assert any("1 of 4 fake faces are left out, without a known mask, such as crops/" in note for note in report.notes)


def test_attention_maps_are_compared_as_attention(prepared: Path, checkpoint: Path) -> None:
    report = evaluate(prepared, replace(QUICK, checkpoint=str(checkpoint)))
    found = report.to_json()["localisation"]
    expected = _expected(load_checkpoint(checkpoint, build_model).network, prepared, MASKS)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=2e-3)
    assert found["maps"] == "attention" and "no forgery map" in " ".join(report.notes)


def test_attention_maps_are_summed_and_divided_by_the_faces_maximum() -> None:
    maps = np.array([[[[1, 0], [0, 2]], [[3, 0], [1, 0]]], np.zeros((2, 2, 2))], dtype=np.float32)
    scaled = scale_attention(maps)
    assert scaled[0].tolist() == [[1, 0], [0.25, 0.5]] and not scaled[1].any()


def test_a_mask_is_cut_as_the_face_is() -> None:
    mask = np.zeros((SIZE_PX, SIZE_PX), np.uint8)
    mask[CROP_BOX[1] : CROP_BOX[1] + 3, CROP_BOX[0] + 3 : CROP_BOX[0] + 9] = 255  # three pixels make one
    cut = cut_mask(mask, CONTRACT)
    assert cut.shape == (INPUT_SIZE, INPUT_SIZE) and np.argwhere(cut).tolist() == [[0, 1], [0, 2]]
    assert not cut_mask(np.full_like(mask, 127), CONTRACT).any() and cut_mask(np.full_like(mask, 128), CONTRACT).all()


def test_every_mask_that_cannot_be_used_is_counted(work: Path, with_map: Path) -> None:
    rows = set_masks(work, [np.zeros((SIZE_PX, SIZE_PX), np.uint8), MASKS[1], MASKS[2], MASKS[2][:190, :190]])
    (work / "detect-faces" / (rows[1].mask_path or "")).unlink()
    report = evaluate(work, replace(QUICK, checkpoint=str(with_map)))
    found = report.to_json()["localisation"]
    counts = {name: number for name, number in found.items() if name.startswith("masks.") and number}
    assert counts == {"masks.file": 1, "masks.unreadable": 1, "masks.wrong_size": 1, "masks.uniform": 1}
    notes = " ".join(report.notes)
    assert f"1 of 4 fake faces are left out, whose mask is missing or damaged, such as {rows[1].mask_path}" in notes
    facts = " ".join(report.to_text().split())
    assert "fake faces 1 with a stored mask, 1 whose mask is missing or damaged, 1 whose mask has another size" in facts


def test_a_fake_without_a_mask_is_compared_with_its_original(
    tmp_path: Path, with_map: Path, face_pictures: dict[str, list[Array]]
) -> None:
    records = [
        {"image": encode_png(face_pictures[label][0]), "video": label, "label": label, "original": original}
        for label, original in (("real", None), ("fake", "real"))
    ]
    import_faces(write_faces_parquet(tmp_path / "f.parquet", records), tmp_path / "work", ImportConfig(as_is=True))
    stage = tmp_path / "work" / "detect-faces"
    crops = {label: _rows_of(tmp_path / "work", label)[0].crop_path for label in ("real", "fake")}
    forged = read_image(stage / crops["real"])
    forged[MASKS[0] > 127] = 255 - forged[MASKS[0] > 127]
    write_image(stage / crops["fake"], forged)
    found = evaluate(tmp_path / "work", replace(QUICK, checkpoint=str(with_map))).to_json()["localisation"]
    assert (found["masks.difference"], found["masks.file"], found["faces.fake"]) == (1, 0, 1)
    by_difference = found["pixel_auc"]
    set_masks(tmp_path / "work", [MASKS[0]])
    found = evaluate(tmp_path / "work", replace(QUICK, checkpoint=str(with_map))).to_json()["localisation"]
    assert (found["masks.difference"], found["masks.file"]) == (0, 1)
    assert found["pixel_auc"] == pytest.approx(by_difference, abs=0.1)


def test_crops_in_a_parquet_file_bring_their_masks(
    tmp_path: Path, with_map: Path, face_pictures: dict[str, list[Array]]
) -> None:
    """They are compared in the aligned frame, as after an import into a workspace."""
    records: list[dict[str, Any]] = []
    for label, pictures in face_pictures.items():
        for number, picture in enumerate(pictures[:2]):
            mask = np.zeros_like(picture)
            mask[60:120, 40:110] = 255
            masked = {"mask": encode_png(mask) if label == "fake" else None}
            records.append({"image": encode_png(picture), "video": f"{label}{number}", "label": label, **masked})
    crops = write_faces_parquet(tmp_path / "crops.parquet", records)
    config = replace(QUICK, checkpoint=str(with_map))
    found = evaluate(crops, config).to_json()["localisation"]
    assert (found["masks.file"], found["faces.fake"], found["faces.real"]) == (2, 2, 2)
    import_faces(crops, tmp_path / "work", ImportConfig())
    rows = [row for row in _rows_of(tmp_path / "work", "fake") if row.mask_path]
    masks = [read_image(tmp_path / "work" / "detect-faces" / (row.mask_path or ""))[..., 0] for row in rows]
    expected = _expected(load_checkpoint(with_map, build_model).network, tmp_path / "work", masks)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=2e-3)


def test_workspaces_without_any_mask_are_refused_before_any_work(work: Path, with_map: Path) -> None:
    set_masks(work, [None] * 4)
    events: list[Progress] = []
    with pytest.raises(ConfigError, match="no face of .*work has a mask to compare with; name the fakes' mask videos"):
        evaluate(work, replace(QUICK, checkpoint=str(with_map)), on_progress=events.append)
    assert not events


def test_masks_that_are_all_unusable_are_an_error_but_the_scores_are_written(
    work: Path, with_map: Path, tmp_path: Path
) -> None:
    set_masks(work, [np.full((SIZE_PX, SIZE_PX), 255, np.uint8)] * 4)
    with pytest.raises(DatasetError, match=r"no fake face has a mask to compare with \(4 whose mask covers"):
        evaluate(work, replace(QUICK, checkpoint=str(with_map)), outputs=tmp_path / "r.json")
    found = json.loads((tmp_path / "r.json").read_text("utf-8"))
    assert found["videos.scored"] == 5 and found["localisation"] is None


def test_a_network_without_maps_is_named(prepared: Path, tmp_path: Path) -> None:
    plain = _save(tmp_path / "plain.safetensors", "backbone/mobilenetv2_050")
    events: list[Progress] = []
    with pytest.raises(
        ConfigError, match="the network backbone/mobilenetv2_050 of .*plain.safetensors has none; pass a"
    ):
        evaluate(prepared, replace(QUICK, checkpoint=str(plain)), on_progress=events.append)
    assert not events


@pytest.mark.parametrize("kind", ["scores", "details"])
def test_sources_without_faces_are_refused(tmp_path: Path, kind: str) -> None:
    source = {
        "scores": lambda: write_score_file(tmp_path / "s.csv", [score_row("a.mp4", 0.5)]),
        "details": lambda: write_plain_details(tmp_path / "d.parquet", [face_row("a.mp4", 0, 0.5)]),
    }[kind]()
    with pytest.raises(ConfigError, match=r"--localisation needs the faces themselves, and .* holds only their scores"):
        evaluate(source, QUICK)


def test_maps_that_are_no_numbers_are_refused(with_map: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locator = Locator(str(with_map), RunOptions(device="cpu"))
    monkeypatch.setattr(locator, "_run", lambda images: np.full((1, 4, 4), np.nan, np.float32))
    with pytest.raises(InputError, match="gives no maps with numbers in 0..1"):
        locator.locate([np.zeros((INPUT_SIZE, INPUT_SIZE, 3), np.uint8)])


def test_the_command_prints_the_table_and_draws_examples(
    deepfake: Deepfake, prepared: Path, with_map: Path, tmp_path: Path
) -> None:
    result = deepfake("evaluate", prepared, "--checkpoint", with_map, "--localisation", "--bootstrap", 20,
                      "-o", tmp_path / "r.json", "-o", tmp_path / "r.md", "--plots", tmp_path / "p")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    found = json.loads((tmp_path / "r.json").read_text("utf-8"))["localisation"]
    shown = f"{found['pixel_auc']:.3f} ({found['pixel_auc.low']:.3f} to {found['pixel_auc.high']:.3f})"
    table = (tmp_path / "r.md").read_text("utf-8").split("## Localisation")[1]
    assert f"| all | 3 | 4 | {shown} |" in table and f"IoU at {found['best_threshold']:.2f}" in table
    assert "Localisation\n" in result.stdout and shown in result.stdout
    assert "forgery map, compared with masks at 64x64 pixels" in result.stdout
    picture = read_image(tmp_path / "p" / "localisation.png")
    assert picture.shape[0] > 2 * 160  # a row for each of the two videos with masks


def test_only_the_measured_videos_are_located(work: Path, with_map: Path, tmp_path: Path) -> None:
    events: list[Progress] = []
    labels = tmp_path / "l.csv"
    labels.write_text("video,label\nr0,real\nf0,fake\n", "utf-8")
    config = replace(QUICK, checkpoint=str(with_map))
    found = evaluate(work, config, labels=labels, on_progress=events.append).to_json()["localisation"]
    assert (found["faces.fake"], found["faces.real"]) == (2, 1)
    last = events[-1]
    assert (last.task, last.done, last.total) == ("localisation", 3, 3)
