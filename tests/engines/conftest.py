"""Exported files that the tests of engines and of `export` share: each takes seconds to make."""

from __future__ import annotations

from pathlib import Path

import pytest

REASON = "needs pip install 'deepfake[{}]'"


@pytest.fixture(scope="session")
def onnx_file(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint as ONNX."""
    return _export(tmp_path_factory.mktemp("onnx") / "tiny.onnx", str(checkpoint))


@pytest.fixture(scope="session")
def map_onnx_file(map_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint that gives forgery maps as ONNX."""
    return _export(tmp_path_factory.mktemp("onnx") / "maps.onnx", str(map_checkpoint))


@pytest.fixture(scope="session")
def default_onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded default weights as ONNX."""
    from pipelines import PredictConfig

    return _export(tmp_path_factory.mktemp("onnx") / "default.onnx", PredictConfig.checkpoint)


def need_package(package: str) -> None:
    """Skip the test where an extra is not installed."""
    if package != "torch":
        pytest.importorskip(package, reason=REASON.format("openvino" if package == "openvino" else "onnx"))


def without_map(file: Path, folder: Path) -> Path:
    """The same model as it was exported before there was the output `forgery_map`."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(file)
    (extra,) = [output for output in model.graph.output if output.name == "forgery_map"]
    model.graph.output.remove(extra)
    onnx.save(model, folder / "earlier.onnx")
    return folder / "earlier.onnx"


def _export(path: Path, checkpoint: str) -> Path:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        need_package(package)
    from pipelines import export

    return export(path, checkpoint=checkpoint).path
