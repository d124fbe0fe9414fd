"""ONNX files of strangers: no other file is read for them, and what is no classifier scores nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.checkpoints.checkpoint import read_header
from pipelines.engines.onnx_file import HEADER_KEY, INPUT, PROBABILITY
from tests.conftest import Deepfake
from tests.strangers.tampering import error_line

onnx = pytest.importorskip("onnx", reason="needs pip install 'deepfake[onnx]'")
pytest.importorskip("onnxruntime", reason="needs pip install 'deepfake[onnx]'")
SIZE = 64


def _model(header: dict[str, Any], nodes: list[Any], constants: list[Any], *, taken: str = INPUT) -> Any:
    helper, uint8, float32 = onnx.helper, onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(taken, uint8, ["n", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info(PROBABILITY, float32, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    model.metadata_props.add(key=HEADER_KEY, value=json.dumps(header))
    return model


def _mean_times(header: dict[str, Any], factor: float, *, axes: tuple[int, ...] = (1, 2, 3), **names: str) -> Any:
    """The mean of all pixels, times a number."""
    make, array = onnx.helper.make_node, onnx.numpy_helper.from_array
    taken = names.get("taken", INPUT)
    nodes = [make("Cast", [taken], ["pixels"], to=onnx.TensorProto.FLOAT),
             make("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
             make(names.get("operator", "Mul"), ["mean", "factor"], [PROBABILITY])]  # fmt: skip
    constants = [array(np.array(axes, np.int64), "axes"), array(np.array(factor, np.float32), "factor")]
    return _model(header, nodes, constants, taken=taken)


def _with_weights_elsewhere(header: dict[str, Any]) -> Any:
    model = _mean_times(header, 0.001)
    factor = model.graph.initializer[1]
    factor.ClearField("raw_data")
    factor.data_location = onnx.TensorProto.EXTERNAL
    factor.external_data.add(key="location", value="../secret.bin")
    return model


@pytest.fixture
def predict(
    deepfake: Deepfake, checkpoint: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Any], Any]:
    """Scores the clip with a model; a file next to it must not be touched."""
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (tmp_path / "secret.bin").write_bytes(np.float32(0.001).tobytes())

    def score(make: Callable[[dict[str, Any]], Any]) -> Any:
        made = make(read_header(checkpoint).to_json())
        Path("model.onnx").write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
        return deepfake("predict", clip, "--checkpoint", "model.onnx", "--engine", "onnxruntime", "--json")

    return score


def test_a_model_that_gives_probabilities_is_taken(predict: Callable[[Any], Any]) -> None:
    result = predict(lambda header: _mean_times(header, 0.001))
    assert result.exit_code == 0, result.stderr
    assert 0 < json.loads(result.stdout)["fake_probability"] < 0.255


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda header: b"", "has no preprocessing contract"),
        (lambda header: b"\x80\x04code", "is not a whole ONNX file"),
        (lambda header: _mean_times(header, 1).SerializeToString()[:-20], "ONNX file"),
        (lambda header: _mean_times({**header, "format": "x"}, 1), "has the format x"),
        (
            lambda header: _mean_times({**header, "preprocessing": {**header["preprocessing"], "input_size": 0}}, 1),
            "contract is wrong: input_size 0; get it again",
        ),
        (_with_weights_elsewhere, "reads its weights from other files; pass an ONNX file made by: deepfake export"),
        (lambda header: _mean_times(header, 1, operator="RunShell"), "onnxruntime cannot use the ONNX model"),
    ],
)
def test_a_file_that_is_no_export_ends_in_one_line(
    predict: Callable[[Any], Any], make: Callable[[dict[str, Any]], Any], message: str
) -> None:
    assert message in error_line(predict(make))


@pytest.mark.parametrize(
    "make",
    [
        lambda header: _mean_times(header, 1),
        lambda header: _mean_times(header, float("nan")),
        lambda header: _mean_times(header, -1),
        lambda header: _mean_times(header, 0.001, axes=(0, 1, 2, 3)),
        lambda header: _mean_times(header, 0.001, axes=(1, 2)),
        lambda header: _mean_times(header, 0.001, taken="pictures"),
    ],
)
def test_a_model_that_is_no_classifier_gives_no_verdict(
    predict: Callable[[Any], Any], make: Callable[[dict[str, Any]], Any]
) -> None:
    result = predict(make)
    row = json.loads(result.stdout)
    assert result.exit_code == 3
    assert (row["status"], row["fake_probability"], row["verdict"]) == ("failed", None, None) and row["error"]
    assert "Traceback" not in result.stderr
