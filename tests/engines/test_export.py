"""`export` leaves one ONNX file that gives torch's probabilities and says where it comes from, or none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines import PredictConfig, export
from pipelines.checkpoints.checkpoint import load_checkpoint, read_header, save_checkpoint
from pipelines.engines import comparison
from pipelines.engines.onnx_file import read_onnx_header
from pipelines.errors import CheckpointError, ConfigError
from pipelines.models import build_model
from pipelines.stages import export as stage
from pipelines.system.file_digest import file_digest
from tests.conftest import INPUT_SIZE, Deepfake
from tests.engines.conftest import need_package, without_map
from tests.support import REPOSITORY, temporary_files


def test_the_file_says_what_it_is_and_where_it_comes_from(onnx_file: Path, checkpoint: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(onnx_file)
    onnx.checker.check_model(model)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata["deepfake"]) == read_header(checkpoint).to_json()
    assert metadata["deepfake_source"] == checkpoint.name
    assert metadata["deepfake_source_sha256"] == file_digest(checkpoint)
    assert read_onnx_header(onnx_file) == read_header(checkpoint)
    assert _shape(model.graph.input[0]) == ("images", "uint8", ["faces", INPUT_SIZE, INPUT_SIZE, 3])
    assert _shape(model.graph.output[0])[:2] == ("fake_probability", "float32")


def _shape(value: Any) -> tuple[str, str, list[Any]]:
    kind = value.type.tensor_type
    name = {1: "float32", 2: "uint8"}[kind.elem_type]
    return value.name, name, [each.dim_param or each.dim_value for each in kind.shape.dim]


def test_the_file_holds_nothing_of_the_machine_it_was_made_on(onnx_file: Path, default_onnx_file: Path) -> None:
    for path in (onnx_file, default_onnx_file):
        content = path.read_bytes()
        assert b"site-packages" not in content and str(REPOSITORY / "pipelines").encode() not in content


def test_other_programs_get_the_probabilities_from_pictures_alone(default_onnx_file: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    network = load_checkpoint(PredictConfig.checkpoint, build_model)
    images = np.random.default_rng(1).integers(0, 256, (3, 160, 160, 3), dtype=np.uint8)
    (probabilities,) = runtime.InferenceSession(default_onnx_file).run(None, {"images": images})
    assert probabilities.shape == (3,) and probabilities.dtype == np.float32
    assert comparison.compare_with_torch(
        default_onnx_file.read_bytes(), PredictConfig.checkpoint, network.header.preprocessing, list(images)
    ) == (pytest.approx(0, abs=1e-4), None)


def test_a_file_that_differs_from_torch_is_not_left_there(
    checkpoint: Path, onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_checkpoint(str(checkpoint), build_model)
    state = loaded.network.state_dict()
    state["classifier.2.bias"] += torch.tensor([-0.001, 0.001])
    save_checkpoint(tmp_path / "other.safetensors", state, loaded.header)
    monkeypatch.setattr(stage, "export_onnx", lambda _loaded: onnx_file.read_bytes())
    output = tmp_path / "out.onnx"
    output.write_bytes(b"before")
    with pytest.raises(CheckpointError, match=r"gives other probabilities than torch, by up to .*was not written"):
        export(output, checkpoint=str(tmp_path / "other.safetensors"), overwrite=True)
    assert output.read_bytes() == b"before" and temporary_files(tmp_path) == []
    done = export(output, checkpoint=str(checkpoint), overwrite=True)
    assert done.largest_difference < 1e-4 and done.num_bytes == output.stat().st_size
    assert done.largest_map_difference is None
    assert (done.num_faces, done.num_images) == (4, 10)


def test_a_network_with_a_mask_branch_gives_its_map_too(
    map_checkpoint: Path, map_onnx_file: Path, onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    names = {path: [output.name for output in onnx.load(path).graph.output] for path in (map_onnx_file, onnx_file)}
    assert names == {map_onnx_file: ["fake_probability", "forgery_map"], onnx_file: ["fake_probability"]}
    images = np.random.default_rng(1).integers(0, 256, (3, INPUT_SIZE, INPUT_SIZE, 3), dtype=np.uint8)
    probabilities, maps = runtime.InferenceSession(map_onnx_file).run(None, {"images": images})
    assert (probabilities.shape, maps.shape, maps.dtype) == ((3,), (3, 16, 16), np.float32)
    monkeypatch.setattr(stage, "export_onnx", lambda _loaded: map_onnx_file.read_bytes())
    done = export(tmp_path / "out.onnx", checkpoint=str(map_checkpoint))
    assert done.largest_map_difference is not None and 0 < done.largest_map_difference < 1e-4


@pytest.mark.parametrize(("shift", "difference"), [(0.0, "inf"), (0.004, r"0\.001")])
def test_a_file_with_another_map_than_torchs_or_without_one_is_not_left_there(
    shift: float,
    difference: str,
    map_checkpoint: Path,
    map_onnx_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = load_checkpoint(str(map_checkpoint), build_model)
    state = loaded.network.state_dict()
    state["mask.3.bias"] += shift
    save_checkpoint(tmp_path / "other.safetensors", state, loaded.header)
    file = map_onnx_file if shift else without_map(map_onnx_file, tmp_path)
    monkeypatch.setattr(stage, "export_onnx", lambda _loaded: file.read_bytes())
    with pytest.raises(
        CheckpointError, match=f"gives other forgery maps than torch, by up to {difference}; .*not written"
    ):
        export(tmp_path / "out.onnx", checkpoint=str(tmp_path / "other.safetensors"))
    assert not (tmp_path / "out.onnx").exists() and temporary_files(tmp_path) == []


def test_real_faces_and_noise_of_every_size_are_compared() -> None:
    images = comparison.make_random_inputs(INPUT_SIZE)
    assert {image.shape for image in images} == {(INPUT_SIZE, INPUT_SIZE, 3)}
    steps = [float(np.abs(np.diff(image.astype(int), axis=1)).mean()) for image in images]
    assert steps == sorted(steps, reverse=True) and steps[-1] < steps[0] / 5
    contract = load_checkpoint(PredictConfig.checkpoint, build_model).header.preprocessing
    faces = comparison.find_example_faces(contract)
    assert [face.shape for face in faces] == [(160, 160, 3)] * 4


def test_without_the_example_clip_random_images_are_compared(
    checkpoint: Path, onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "export_onnx", lambda _loaded: onnx_file.read_bytes())
    monkeypatch.setattr(comparison, "EXAMPLE_CLIP", tmp_path / "none.mp4")
    done = export(tmp_path / "out.onnx", checkpoint=str(checkpoint))
    assert (done.num_faces, done.num_images) == (0, 6)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("out.pb", {}, "the output must end in .onnx, got out.pb"),
        ("none/out.onnx", {}, "the folder .* does not exist"),
        ("folder.onnx", {}, "is a folder; name a file"),
        ("there.onnx", {}, "exists; name another output, or give --overwrite"),
        ("out.onnx", {"format": "tflite"}, "format must be one of onnx, got tflite"),
        ("out.onnx", {"checkpoint": "there.onnx"}, "is an ONNX file already"),
        ("out.onnx", {"checkpoint": "unheard-of"}, "is neither a file nor a known checkpoint"),
    ],
)
def test_what_can_not_be_exported_is_refused_before_the_work(
    name: str, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    need_package("onnxruntime")
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "there.onnx").write_bytes(b"")
    with pytest.raises(ConfigError, match=message):
        export(tmp_path / name, **settings)
    assert not (tmp_path / "out.onnx").exists()


def test_a_network_that_does_not_translate_is_refused_with_the_reason(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_package("onnxruntime")
    need_package("onnxscript")

    def fail(*_arguments: Any, **_settings: Any) -> None:
        raise torch.onnx.OnnxExporterError("no operator for it\nand a long story")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(CheckpointError, match=r"paper does not translate to ONNX \(no operator for it\); use --engine"):
        export(tmp_path / "out.onnx", checkpoint=str(checkpoint))
    assert temporary_files(tmp_path) == []


def test_the_command_says_what_it_has_written_and_how_it_compares(
    deepfake: Deepfake, checkpoint: Path, onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "export_onnx", lambda _loaded: onnx_file.read_bytes())
    output = tmp_path / "out.onnx"
    result = deepfake("export", "--checkpoint", checkpoint, "-o", output)
    assert result.exit_code == 0, result.stderr
    assert f"{output}: tiny.safetensors ({file_digest(checkpoint)[:12]})" in result.stdout
    assert "on 10 images (including 4 real faces)" in result.stdout
    assert "forgery maps" not in result.stdout
    again = deepfake("export", "--checkpoint", checkpoint, "-o", output)
    assert again.exit_code == 2 and "exists; name another output" in again.stderr


def test_predict_reads_the_exported_file(deepfake: Deepfake, onnx_file: Path, clip: Path) -> None:
    result = deepfake("predict", clip, "--checkpoint", onnx_file, "--engine", "onnxruntime", "--json", "-q")
    assert result.exit_code == 0, result.stderr
    row = json.loads(result.stdout)
    assert (row["status"], row["model"], row["model_sha256"]) == ("ok", "tiny.onnx", file_digest(onnx_file))
    refused = deepfake("predict", clip, "--engine", "onnxruntime", "--precision", "bf16")
    assert refused.exit_code == 2 and "onnxruntime: float32;" in refused.stderr
