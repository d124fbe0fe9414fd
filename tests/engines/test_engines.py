"""Every engine gives the scores of torch; which one computed them is recorded, and the default stays what it was."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pipelines import PredictConfig, RunOptions, predict
from pipelines.checkpoints.checkpoint import CheckpointHeader, load_checkpoint, save_checkpoint
from pipelines.checkpoints.preprocessing import Preprocessing, resize_square
from pipelines.config import ENGINE_PRECISIONS, EngineName, Precision
from pipelines.engines.engine import Engine, load_engine
from pipelines.errors import CheckpointError, ConfigError
from pipelines.models import build_model, model_config
from pipelines.scoring.settings import Settings, resolve_settings
from pipelines.workspace.manifest import digest_json, read_provenance
from tests.conftest import CROP_BOX, TINY_NETWORK
from tests.engines.conftest import need_package, without_map
from tests.networks import random_images, settle

Image = npt.NDArray[np.uint8]
CPU = torch.device("cpu")
COMBINATIONS = [(engine, precision) for engine, known in ENGINE_PRECISIONS.items() for precision in known]
OTHERS = [combination for combination in COMBINATIONS if combination != ("torch", "float32")]
TOLERANCES = {"float32": 1e-4, "bf16": 0.03}
ODD_SIZE = 76
"""Maps of 19 and 5 pixels: no patch of the texture's local average is as large as the next."""


def _load(checkpoint: Path | str, engine: EngineName = "torch", precision: Precision = "float32") -> Engine:
    header = resolve_settings(PredictConfig(checkpoint=str(checkpoint), engine=engine, precision=precision))
    return load_engine(engine, precision, checkpoint=str(checkpoint), contract=header.contract, device=CPU)


def _inputs(pictures: dict[str, list[Image]], size_px: int) -> list[Image]:
    return [resize_square(picture, size_px) for label in ("real", "fake") for picture in pictures[label]]


def _differences(engine: Engine, images: Sequence[Image], expected: Sequence[float]) -> float:
    scores = engine.classify(images)
    assert scores.forgery_maps is None
    return float(np.abs(np.subtract(scores.probabilities, expected)).max())


@pytest.mark.parametrize(("engine", "precision"), [each for each in OTHERS if each[1] == "float32"])
def test_a_face_has_the_same_probability_in_every_engine_and_batch(
    engine: EngineName,
    precision: Precision,
    checkpoint: Path,
    onnx_file: Path,
    face_pictures: dict[str, list[Image]],
) -> None:
    need_package(engine)
    images = _inputs(face_pictures, 64)
    expected = _load(checkpoint).classify(images).probabilities
    assert np.ptp(expected) > 0.1, "mixed-up faces would not show"
    other = _load(onnx_file, engine, precision)
    assert _differences(other, images, expected) < 1e-4
    assert _differences(other, images[:1], expected[:1]) < 1e-4
    assert _differences(other, images[5:], expected[5:]) < 1e-4


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_face_without_attention_has_the_same_probability_in_every_engine(
    engine: EngineName, checkpoint: Path, onnx_file: Path, tmp_path: Path, face_pictures: dict[str, list[Image]]
) -> None:
    need_package(engine)
    onnx = pytest.importorskip("onnx")
    loaded, model = load_checkpoint(str(checkpoint), build_model), onnx.load(onnx_file)
    state = loaded.network.state_dict()
    dead = (
        state["attention.bn.bias"] - 1000
    )  # the ReLU leaves nothing: the classifier sees the plain mean of the last maps
    state["attention.bn.bias"] = dead
    save_checkpoint(tmp_path / "dead.safetensors", state, loaded.header)
    (bias,) = [each for each in model.graph.initializer if each.name == "network.attention.bn.bias"]
    bias.CopyFrom(onnx.numpy_helper.from_array(dead.numpy(), bias.name))
    onnx.save(model, tmp_path / "dead.onnx")
    images = _inputs(face_pictures, 64)
    expected = _load(tmp_path / "dead.safetensors").classify(images).probabilities
    assert np.ptp(expected) > 1e-3
    assert _differences(_load(tmp_path / "dead.onnx", engine), images, expected) < 1e-4


@pytest.mark.parametrize("engine", ["torch", "onnxruntime", "openvino"])
def test_the_forgery_map_is_the_networks_mask_in_every_engine_and_batch(
    engine: EngineName, map_checkpoint: Path, face_pictures: dict[str, list[Image]], request: pytest.FixtureRequest
) -> None:
    need_package(engine)
    images = _inputs(face_pictures, 64)
    network = load_checkpoint(str(map_checkpoint), build_model).network
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.inference_mode():
        output = network(batch)
    expected = 1 / (1 + np.exp(-output.dense.mask[:, 0].numpy().astype(np.float64)))
    assert expected.shape == (8, 16, 16) and expected.std(axis=0).min() > 1e-3, "mixed-up faces would not show"
    assert expected.min() < 0.1 and expected.max() > 0.9
    path = map_checkpoint if engine == "torch" else request.getfixturevalue("map_onnx_file")
    loaded = _load(path, engine)
    for chosen in (slice(0, 8), slice(0, 1), slice(5, 8)):
        probabilities, maps = loaded.classify(images[chosen])
        assert maps is not None and maps.dtype == np.float32
        np.testing.assert_allclose(maps, expected[chosen], rtol=0, atol=1e-4)
        np.testing.assert_allclose(probabilities, output.logits.softmax(dim=1)[chosen, 1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_onnx_file_that_was_exported_without_the_map_gives_probabilities_as_before(
    engine: EngineName, map_onnx_file: Path, tmp_path: Path, face_pictures: dict[str, list[Image]]
) -> None:
    need_package(engine)
    images = _inputs(face_pictures, 64)
    expected = _load(map_onnx_file, engine).classify(images).probabilities
    assert _differences(_load(without_map(map_onnx_file, tmp_path), engine), images, expected) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("consistency", ["cosine", "dot"])
def test_the_joint_score_of_all_tasks_translates(
    consistency: str, tmp_path: Path, face_pictures: dict[str, list[Image]]
) -> None:
    need_package("onnxscript")
    need_package("onnxruntime")
    torch.manual_seed(0)
    shares = (0.5, 0.25, 0.25)
    network: Any = build_model("f-bifpn-mtlnet/small", consistency=consistency, score_weights=shares)
    settle(network, lambda: network(random_images(4, ODD_SIZE)))
    contract = Preprocessing(input_size=ODD_SIZE, crop_box=CROP_BOX)
    path = tmp_path / "joint.safetensors"
    save_checkpoint(
        path, network.state_dict(), CheckpointHeader("f-bifpn-mtlnet/small", model_config(network), contract)
    )
    images = _inputs(face_pictures, ODD_SIZE)
    expected, maps = _load(path).classify(images)
    got, got_maps = _load(path, "onnxruntime").classify(images)
    assert np.ptp(expected) > 1e-3 and maps is not None and got_maps is not None
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(got_maps, maps, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_authors_network_at_an_odd_size_is_the_same_in_another_engine(
    tmp_path: Path, face_pictures: dict[str, list[Image]]
) -> None:
    need_package("onnxscript")
    need_package("onnxruntime")
    torch.manual_seed(0)
    network: Any = build_model("multi-attention/reference", **TINY_NETWORK)
    settle(network, lambda: network(random_images(4, ODD_SIZE)))
    state = network.state_dict()
    state["classifier.2.weight"] *= 200
    contract = Preprocessing(input_size=ODD_SIZE, crop_box=CROP_BOX)
    path = tmp_path / "reference.safetensors"
    save_checkpoint(path, state, CheckpointHeader("multi-attention/reference", model_config(network), contract))
    images = _inputs(face_pictures, ODD_SIZE)
    expected = _load(path).classify(images).probabilities
    assert np.ptp(expected) > 0.01
    assert _differences(_load(path, "onnxruntime"), images, expected) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "precision"), OTHERS)
def test_the_default_weights_score_the_example_clip_alike_in_every_engine(
    engine: EngineName, precision: Precision, clip: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    need_package(engine)
    checkpoint = PredictConfig.checkpoint if engine == "torch" else str(request.getfixturevalue("default_onnx_file"))
    expected = predict(clip, PredictConfig(frames=8)).rows[0]
    config = PredictConfig(frames=8, checkpoint=checkpoint, engine=engine, precision=precision)
    try:
        summary = predict(clip, config, details=tmp_path)
    except ConfigError as error:
        if "on this CPU" not in str(error):
            raise
        pytest.skip(str(error))
    row = summary.rows[0]
    assert row.fake_probability == pytest.approx(expected.fake_probability, abs=TOLERANCES[precision])
    if precision == "bf16":  # it is what computes, too
        assert row.fake_probability != pytest.approx(expected.fake_probability, abs=1e-4)
    assert (row.faces, row.model) == (expected.faces, Path(checkpoint).name)
    assert row.settings_sha256 != expected.settings_sha256
    assert f"computed by {engine} in {precision}" in summary.weights
    (details,) = tmp_path.iterdir()
    recorded = read_provenance(details).settings
    assert (recorded["engine"], recorded["precision"]) == (engine, precision)


def test_torch_in_float32_is_the_networks_own_result_to_rounding(
    checkpoint: Path, face_pictures: dict[str, list[Image]]
) -> None:
    images, loaded = _inputs(face_pictures, 64), load_checkpoint(str(checkpoint), build_model)
    mean, std = (torch.tensor(values) for values in (loaded.header.preprocessing.mean, loaded.header.preprocessing.std))
    batch = ((torch.from_numpy(np.stack(images)).float() / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = loaded.network(batch).logits.softmax(dim=1)[:, 1]
    assert _load(checkpoint).classify(images).probabilities == pytest.approx(expected.tolist(), abs=1e-5)


def _settings(checkpoint: Path, engine: EngineName, precision: Precision) -> Settings:
    return resolve_settings(PredictConfig(checkpoint=str(checkpoint), engine=engine, precision=precision))


def test_every_engine_and_precision_has_settings_of_its_own(checkpoint: Path) -> None:
    digests = {_settings(checkpoint, *combination).sha256 for combination in COMBINATIONS}
    assert len(digests) == len(COMBINATIONS) == 5


def test_the_settings_of_the_default_engine_have_the_digest_that_they_had_before_there_were_others(
    checkpoint: Path,
) -> None:
    settings = resolve_settings(PredictConfig(checkpoint=str(checkpoint)))
    values = {
        "checkpoint": settings.checkpoint.sha256,
        "contract": settings.contract.to_json(),
        "detector": settings.detector.sha256,
        "decoder": "auto",
        "min_frames": 1,
        "faces": None,
    }
    assert settings.sha256 == digest_json(values)
    assert "computed by" not in settings.describe_weights()
    recorded = settings.to_provenance("predict", 1).settings
    assert (recorded["engine"], recorded["precision"]) == ("torch", "float32")


@pytest.mark.parametrize("threads", [1, 3])
def test_engines_take_as_many_threads_as_torch(onnx_file: Path, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        session = _load(onnx_file, "onnxruntime").session  # type: ignore[attr-defined]
        assert session.get_session_options().intra_op_num_threads == threads
        need_package("openvino")
        compiled = _load(onnx_file, "openvino").compiled  # type: ignore[attr-defined]
        assert compiled.get_property("INFERENCE_NUM_THREADS") == min(threads, os.cpu_count() or 1)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "tensorrt"}, "engine must be one of torch, onnxruntime, openvino, got tensorrt"),
        ({"precision": "int8"}, "precision must be one of float32, bf16, got int8"),
        (
            {"engine": "onnxruntime", "precision": "bf16"},
            r"the engine onnxruntime computes in \(torch: float32, bf16; onnxruntime: float32; openvino: float32, bf16\), "
            "got bf16",
        ),
    ],
)
def test_a_combination_that_does_not_exist_is_refused_with_those_that_do(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        PredictConfig(**settings)


@pytest.mark.parametrize(
    ("engine", "package", "extra"),
    [
        ("onnxruntime", "onnxruntime", "onnx"),
        ("onnxruntime", "onnxscript.optimizer", "onnx"),
        ("openvino", "openvino", "openvino"),
    ],
)
def test_an_engine_that_is_not_installed_is_refused_with_the_extra_to_install(
    engine: EngineName, package: str, extra: str, checkpoint: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in ("onnx", "onnxscript.optimizer", "onnxruntime", "openvino"):
        if each != package and each not in sys.modules:  # what the test's machine has matters not
            monkeypatch.setitem(sys.modules, each, object())
    monkeypatch.setitem(sys.modules, package, None)
    config = PredictConfig(checkpoint=str(checkpoint), engine=engine)
    with pytest.raises(ConfigError, match=rf"{package} is not installed .*pip install 'deepfake\[{extra}\]'"):
        predict(clip, config, RunOptions(device="cpu"))


def test_a_torch_that_is_too_old_to_export_is_refused_with_the_one_to_install(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_package("onnxscript")
    need_package("onnxruntime")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    with pytest.raises(ConfigError, match=r"needs torch 2\.9, this is 2\.5\.1\+cpu; pip install 'deepfake\[onnx\]'"):
        _load(checkpoint, "onnxruntime")


def test_torch_refuses_an_onnx_file_and_names_the_engines_that_read_it(onnx_file: Path, clip: Path) -> None:
    with pytest.raises(ConfigError, match="which torch does not run; add --engine onnxruntime or --engine openvino"):
        predict(clip, PredictConfig(checkpoint=str(onnx_file)))


def test_an_onnx_file_of_others_is_refused(tmp_path: Path, onnx_file: Path, clip: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(onnx_file)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    (tmp_path / "cut.onnx").write_bytes(onnx_file.read_bytes()[:1000])
    for name, message in (("foreign", "has no preprocessing contract"), ("cut", "is not a whole ONNX file")):
        config = PredictConfig(checkpoint=str(tmp_path / f"{name}.onnx"), engine="onnxruntime")
        with pytest.raises(CheckpointError, match=message):
            predict(clip, config)
