"""Weights of strangers run no code, take no memory for what they only claim, and are refused in one line."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from pipelines.checkpoints.checkpoint import load_checkpoint, read_header
from pipelines.config import PredictConfig
from pipelines.errors import CheckpointError
from pipelines.faces.detector import load_detector
from pipelines.models import build_model
from pipelines.scoring.calibration import Calibration
from pipelines.scoring.settings import resolve_settings
from tests.checkpoints.test_weights_files import RunsCode
from tests.conftest import Deepfake
from tests.strangers.tampering import change_header, error_line, pack
from tests.support import make_noise, write_faces_parquet

Header = dict[str, Any]
HUGE = 10**9
COMMANDS = {
    "predict": ["predict", "CLIP", "--checkpoint", "FILE"],
    "predict --faces": ["predict", "--faces", "WORK", "--checkpoint", "FILE"],
    "predict --detector": ["predict", "CLIP", "--checkpoint", "CHECKPOINT", "--detector", "FILE"],
    "detect-faces": ["detect-faces", "-w", "WORK", "--overwrite", "--detector", "FILE"],
    "import-faces": ["import-faces", "PICTURES", "-w", "NEW", "--detector", "FILE"],
    "train": ["train", "-w", "SIDES", "-q", "--backbone", "mobilenetv2_imagenet", "--init", "FILE"],
    "export": ["export", "--checkpoint", "FILE", "-o", "OUT.onnx"],
    "calibrate": ["calibrate", "WORK", "--checkpoint", "FILE", "-o", "OUT.safetensors"],
    "evaluate": ["evaluate", "SIDES", "--checkpoint", "FILE", "--split", "all"],
    "inspect": ["inspect", "FILE"],
    "weights import": ["weights", "import", "FILE", "--from", "multi-attention-official", "-o", "OUT.safetensors"],
}


@pytest.fixture
def run(
    deepfake: Deepfake, tmp_path: Path, clip: Path, checkpoint: Path, faces_workspace: Path, imported_faces: Path
) -> Callable[[str, Path], str]:
    """Runs one of the commands with a file and gives the line of its refusal."""

    def start(command: str, file: Path) -> str:
        pictures = write_faces_parquet(tmp_path / "f.parquet", [{"image": make_noise(0)}])
        folders = {"WORK": faces_workspace, "SIDES": imported_faces, "PICTURES": pictures}
        values = {"CLIP": clip, "FILE": file, "CHECKPOINT": checkpoint, "NEW": tmp_path / "new", **folders}
        for name in set(folders) & {"WORK", "SIDES"} & set(COMMANDS[command]):
            values[name] = shutil.copytree(folders[name], tmp_path / name)
        arguments = [str(values.get(argument, argument)) for argument in COMMANDS[command]]
        return error_line(deepfake(*(argument.replace("OUT", str(tmp_path / "out")) for argument in arguments)))

    return start


def _pickled(path: Path, mark: Path) -> Path:
    path.write_bytes(pickle.dumps({"weight": RunsCode(mark)}, protocol=2))
    return path


def _saved(path: Path, mark: Path) -> Path:
    torch.save({"state_dict": {"weight": RunsCode(mark)}}, path)
    return path


def _scripted(path: Path, _mark: Path) -> Path:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    return path


def _exported(path: Path, _mark: Path) -> Path:
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), path.with_suffix(".pt2"))
    return path.with_suffix(".pt2").rename(path)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("write", [_pickled, _saved])
def test_code_in_a_file_is_run_by_no_command(
    run: Callable[[str, Path], str], tmp_path: Path, command: str, write: Callable[[Path, Path], Path]
) -> None:
    mark = tmp_path / "code-was-run"
    line = run(command, write(tmp_path / "weights.pth", mark))
    assert "weights.pth" in line and "; " in line and "weights_only" not in line
    assert not mark.exists()


@pytest.mark.parametrize("command", ["predict", "predict --detector", "train", "weights import"])
@pytest.mark.parametrize("write", [_scripted, _exported])
@pytest.mark.filterwarnings("ignore")
def test_a_program_of_torch_is_not_even_opened(
    run: Callable[[str, Path], str], tmp_path: Path, command: str, write: Callable[[Path, Path], Path]
) -> None:
    assert "program.pt" in run(command, write(tmp_path / "program.pt", tmp_path))


def test_code_in_the_state_of_a_run_is_never_run(deepfake: Deepfake, imported_faces: Path, tmp_path: Path) -> None:
    mark, work = tmp_path / "code-was-run", Path(shutil.copytree(imported_faces, tmp_path / "work"))
    (work / "train" / "default").mkdir(parents=True)
    _saved(work / "train" / "default" / "last.state.pt", mark)
    options = ["--backbone", "mobilenetv2_imagenet", "--input-size", 64, "--epochs", 2, "--device", "cpu"]
    line = error_line(deepfake("train", "-w", work, "-q", *options))
    assert "last.state.pt is damaged or holds code, which is never run; start the run again with --overwrite" in line
    assert not mark.exists()


def _set(**values: Any) -> Callable[[Header], None]:
    return lambda header: header.update(values)


def _contract(**values: Any) -> Callable[[Header], None]:
    return lambda header: header["preprocessing"].update(values)


def _network(**values: Any) -> Callable[[Header], None]:
    return lambda header: header["model_config"].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set(model=5), "damaged header .*model is int"),
        (_set(model_config=[1]), "damaged header .*model_config is list"),
        (_set(model_config=None), "damaged header .*model_config is NoneType"),
        (_set(calibration=[0.5]), "damaged header .*calibration is list"),
        (_set(provenance="me"), "damaged header .*provenance is str"),
        (_set(preprocessing=[]), "missing or unknown field"),
        (_set(preprocessing=7), "damaged header"),
        (_set(class_names=["fake", "real"]), "damaged header .*class_names are .'fake', 'real'"),
        (_contract(class_names="real"), "class_names is real"),
        (_contract(input_size=-64), "contract is wrong: input_size -64; get it again"),
        (_contract(input_size=100_000), "contract is wrong: input_size 100000"),
        (_contract(input_size=64.5), "contract is wrong: input_size 64.5"),
        (_contract(input_size=True), "contract is wrong: input_size True"),
        (_contract(input_size="64"), "contract is wrong: input_size '64'"),
        (_contract(crop_box=[94.5, 118, 286.5, 310]), "contract is wrong: crop_box"),
        (_contract(crop_box=["a", "b", "c", "d"]), "damaged header"),
        (_contract(crop_box=5), "damaged header"),
        (_contract(margin=float("nan")), "contract is wrong: margin nan"),
        (_contract(margin=-1), "contract is wrong: margin -1"),
        (_contract(mean=[0.5, 0.5]), "contract is wrong: mean"),
        (_contract(mean=[0.5, 0.5, float("nan")]), "contract is wrong: mean"),
        (_contract(std=[0.5, 0.5, 0]), "contract is wrong: std"),
        (_contract(std="abc"), "contract is wrong: std 'abc'"),
        (_contract(frames=0), "contract is wrong: frames 0"),
        (_contract(frames=[4]), "contract is wrong: frames"),
        (_contract(aggregate=["mean"]), "contract is wrong: aggregate"),
        (_contract(threshold=float("nan")), "contract is wrong: threshold nan"),
        (_contract(threshold=2), "contract is wrong: threshold 2"),
        (_contract(max_side=0), "contract is wrong: max_side 0"),
        (_contract(min_score=None), "contract is wrong: min_score None"),
        (_contract(detector=5), "contract is wrong: detector 5"),
        (_contract(detector_sha256=None), "contract is wrong: detector_sha256 None"),
        (_network(num_attentions=HUGE), "cannot be built: num_attentions must be <= 8"),
        (_network(num_attentions="2"), "cannot be built"),
        (_network(num_attentions=1.5), "cannot be built"),
        (_network(dense_layers=HUGE), "cannot be built: dense_layers must be <= 64"),
        (_network(mid_features=HUGE), r"does not fit its own config: .* not \(1000000000"),
        (_network(mid_features=10**30), "cannot be built"),
        (_network(backbone=None), "cannot be built"),
        (_network(backbone="hf-hub:somebody/network"), "cannot be built: timm has no network"),
        (_network(drop_path_rate=float("nan")), "cannot be built: drop_path_rate must be in"),
        (_set(model="backbone/vit_giant_patch14_224", model_config={}), "does not fit its own config; missing:"),
        (_set(model="backbone/resnet50", model_config={"": 1}), "cannot be built"),
    ],
)  # fmt: skip
def test_a_header_that_asks_for_what_can_not_be_is_refused(
    checkpoint: Path, tmp_path: Path, change: Callable[[Header], None], message: str
) -> None:
    path = change_header(checkpoint, tmp_path / "changed.safetensors", change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(str(path), build_model)


def _fit(**values: Any) -> Header:
    known = Calibration("isotonic", "mean", 0.3, 0.7, 0.01, 0.05, 20, 20, 0.1, 0.1, "s", None, (0.1, 0.9), (0.2, 0.8))
    return {**known.to_json(), "aggregate": "max-track", **values}


@pytest.mark.parametrize(
    "fit",
    [
        {}, {"method": "temperature"}, _fit(knots_y=[0.5]), _fit(knots_x=[[0.1], [0.9]]), _fit(knots_x="ab", knots_y="cd"),
        _fit(knots_x=[float("nan"), 0.9]), _fit(knots_x=[0.1] * HUGE.bit_length() * 9), _fit(real_below="0.1"),
        _fit(fake_from=float("inf")), _fit(method=["isotonic"]), _fit(method="temperature", temperature=0), _fit(extra=1),
        _fit(temperature=float("nan")), _fit(videos_real=-1), _fit(aggregate=None), _fit(knots_x=5),
    ],
)  # fmt: skip
def test_a_calibration_of_another_shape_is_refused(checkpoint: Path, tmp_path: Path, fit: Header) -> None:
    path = change_header(checkpoint, tmp_path / "changed.safetensors", _set(calibration=fit))
    with pytest.raises(CheckpointError, match="calibration is damaged .*; calibrate the original checkpoint again"):
        resolve_settings(PredictConfig(checkpoint=str(path)))


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        pack(b"{}", length=2**63),
        pack(b"{}", length=2**64 - 1),
        pack(b"{}", length=99_999_999),
        pack(b"{}", length=3),
        pack(b"{" * 200_000),
        pack(b"[" * 200_000),
        pack(b'{"__metadata__": []}'),
        pack(b'{"__metadata__": "deepfake"}'),
        pack(b'{"__metadata__": {"deepfake": {"a": 1}}}'),
        pack(b'{"__metadata__": {}, "__metadata__": {"deepfake": "x"}}'),
        pack(b'{"a": 1, "a": 2}'),
        pack(b'{"\xff": 1}'),
        pack(b'{"a": ' + b"9" * 5000 + b"}"),
        pack(b"null"),
    ],
)
def test_a_header_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not a safetensors file; pass a checkpoint made by: deepfake train"):
        read_header(path)
    with pytest.raises(CheckpointError, match="is not a whole safetensors file|is not a RetinaFace detector"):
        load_detector(str(path))


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "5", "null", '{"format": 1, "format": 2}', "", "\0"])
def test_a_contract_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(save({"a": torch.zeros(1)}, metadata={"deepfake": text}))
    with pytest.raises(CheckpointError, match="has a damaged header .*; get it again"):
        read_header(path)


@pytest.mark.parametrize(
    ("tensors", "data"),
    [
        ({"a": TENSOR}, b"1234"),
        ({"a": TENSOR}, b"12345678" * 2),
        ({"a": {**TENSOR, "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}, b"12345678"),
        ({"a": {**TENSOR, "shape": [2**62, 4]}}, b"12345678"),
        ({"a": {**TENSOR, "shape": [-2]}}, b"12345678"),
        ({"a": {**TENSOR, "data_offsets": [8, 0]}}, b"12345678"),
        ({"a": {**TENSOR, "dtype": "F3"}}, b"12345678"),
        ({"a": {**TENSOR, "dtype": 5}}, b"12345678"),
        ({"a": TENSOR, "b": TENSOR}, b"12345678"),
        ({"a": []}, b""),
    ],
)
def test_weights_that_are_not_where_the_header_says_are_refused(
    checkpoint: Path, tmp_path: Path, tensors: Header, data: bytes
) -> None:
    header = read_header(checkpoint).to_json()
    outer = {"__metadata__": {"deepfake": json.dumps(header)}, **tensors}
    path = tmp_path / "weights.safetensors"
    path.write_bytes(pack(json.dumps(outer).encode(), data))
    with pytest.raises(CheckpointError, match="is not a whole safetensors file .*; get it again"):
        load_checkpoint(str(path), build_model)


@pytest.mark.parametrize("cut", [-1, -1000, 9])
def test_a_whole_header_before_other_data_is_refused(checkpoint: Path, tmp_path: Path, cut: int) -> None:
    content = checkpoint.read_bytes()
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content[:cut] if cut < 0 else content + b"x" * cut)
    with pytest.raises(CheckpointError, match="is not a whole safetensors file .*; get it again"):
        load_checkpoint(str(path), build_model)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(checkpoint: Path, tmp_path: Path, value: float) -> None:
    state = load_file(checkpoint)
    state["classifier.2.bias"][1] = value
    path = tmp_path / "weights.safetensors"
    path.write_bytes(save(state, metadata={"deepfake": json.dumps(read_header(checkpoint).to_json())}))
    with pytest.raises(
        CheckpointError, match="holds weights that are infinite or NaN, in classifier.2.bias; pass an earlier"
    ):
        load_checkpoint(str(path), build_model)


@pytest.mark.parametrize("command", ["predict", "inspect", "export", "calibrate", "evaluate"])
def test_a_hostile_header_is_one_line_in_every_command(
    run: Callable[[str, Path], str], checkpoint: Path, tmp_path: Path, command: str
) -> None:
    path = change_header(checkpoint, tmp_path / "changed.safetensors", _contract(input_size=-64))
    assert "contract is wrong: input_size -64; get it again" in run(command, path)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "/dev/zero", "."])
def test_a_name_that_no_file_can_have_is_no_checkpoint(name: str) -> None:
    with pytest.raises(CheckpointError, match="is neither a file nor a known checkpoint"):
        load_checkpoint(name, build_model)
