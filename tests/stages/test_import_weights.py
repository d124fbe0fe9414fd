"""`weights import` makes the authors' file a checkpoint that `predict` takes, and runs nothing that is in it."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipelines import ImportConfig, import_faces
from pipelines.checkpoints.checkpoint import load_checkpoint, read_header
from pipelines.checkpoints.official_names import MODEL
from pipelines.checkpoints.preprocessing import Preprocessing, cut_input, to_network_input
from pipelines.errors import CheckpointError, ConfigError
from pipelines.models import build_model
from pipelines.stages.import_weights import import_weights
from pipelines.system.file_digest import file_digest
from pipelines.system.image_files import read_image
from pipelines.workspace.manifest import read_table
from tests.conftest import Deepfake
from tests.models.official import random_detector
from tests.support import encode_png, write_faces_parquet

LAYOUT = "multi-attention-official"
LEFT_OUT = ["attentions.mask", "auxiliary_loss.alpha", "auxiliary_loss.feature_centers", "auxiliary_loss.inner_margin"]
LOGS = {"epoch": 49, "ensemble_acc": np.float64(0.976), "history": np.arange(3.0), "flag": np.bool_(True)}
NO_WEIGHTS_OF_OURS = {"strange.weight": torch.ones(1)}
"""A file with these is read, and then refused by name: enough to see that reading worked."""


class RunsCode:
    """A pickle of this makes a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture(scope="session")
def official_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the authors' training writes: weights, logs and the states of optimiser and schedule."""
    state = random_detector().state_dict()
    weight = state["net._fc.bias"]
    content = {
        "logs": LOGS,
        "state_dict": state,
        "optimizer_state": {
            "state": {0: {"step": 7, "exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}},
            "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "weight_decay": 1e-6, "params": [0]}],
        },
        "scheduler_state": {"step_size": 5, "gamma": 0.5, "base_lrs": [1e-4], "_last_lr": [np.float64(1e-4)]},
    }
    path = tmp_path_factory.mktemp("official") / "ff_c23.pth"
    torch.save(content, path)
    return path


@pytest.fixture(scope="session")
def imported(tmp_path_factory: pytest.TempPathFactory, official_file: Path) -> Path:
    """The checkpoint that the library makes of it."""
    output = tmp_path_factory.mktemp("imported") / "official.safetensors"
    import_weights(official_file, output)
    return output


@pytest.fixture
def work(tmp_path: Path, face_pictures: dict[str, Any]) -> Path:
    """A workspace with one face."""
    source = write_faces_parquet(tmp_path / "face.parquet", [{"image": encode_png(face_pictures["real"][0])}])
    import_faces(source, tmp_path / "work", ImportConfig(as_is=True))
    return tmp_path / "work"


def test_the_header_says_where_the_weights_are_from_and_what_they_see(official_file: Path, imported: Path) -> None:
    header = read_header(imported)
    assert header.model == MODEL
    assert header.model_config["padding"] == "static-380" and header.model_config["num_attentions"] == 4
    assert header.preprocessing == Preprocessing(input_size=380, crop_box=(0, 0, 380, 380), margin=1.0)
    assert header.preprocessing.mean == header.preprocessing.std == (0.5, 0.5, 0.5)
    assert header.calibration is None
    assert header.provenance == {
        "layout": LAYOUT,
        "source": "ff_c23.pth",
        "source_sha256": file_digest(official_file),
        "left_out": LEFT_OUT,
    }


def test_the_command_says_what_it_wrote_and_what_it_left_out(
    deepfake: Deepfake, official_file: Path, imported: Path, tmp_path: Path
) -> None:
    output = tmp_path / "mine.safetensors"
    result = deepfake("weights", "import", official_file, "--from", LAYOUT, "-o", output)
    assert result.exit_code == 0, result.stderr
    written, remark = result.stdout.splitlines()
    assert written.startswith(f"{output}: {len(load_file(output))} tensors, 4 attention maps (source SHA-256 ")
    assert written.endswith(f"; left out: {', '.join(LEFT_OUT)}")
    assert "margin 1 (--margin)" in remark and "the authors' crops are not public" in remark
    assert output.read_bytes() == imported.read_bytes()
    facts = json.loads(deepfake("inspect", output, "--json").stdout)
    assert (facts["kind"], facts["model"], facts["provenance"]["source"]) == ("checkpoint", MODEL, "ff_c23.pth")


def test_predict_gives_the_probability_of_the_authors_network(deepfake: Deepfake, imported: Path, work: Path) -> None:
    result = deepfake("predict", "--faces", work, "--checkpoint", imported, "--json", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    row = json.loads(result.stdout)
    (face,) = read_table(work / "detect-faces" / "manifest.parquet").to_pylist()
    crop = read_image(work / "detect-faces" / face["crop_path"])
    contract = read_header(imported).preprocessing
    with torch.inference_mode():
        logits = random_detector()(to_network_input([cut_input(crop, contract)], contract)).logits
    assert row["fake_probability"] == pytest.approx(float(logits.softmax(dim=1)[0, 1]), abs=1e-3)
    assert row["model_sha256"] == file_digest(imported)


def test_a_margin_is_recorded_and_asked_of_the_faces(
    deepfake: Deepfake, official_file: Path, work: Path, tmp_path: Path
) -> None:
    output = tmp_path / "wide.safetensors"
    result = deepfake("weights", "import", official_file, "--from", LAYOUT, "-o", output, "--margin", 1.3)
    assert "margin 1.3 (--margin)" in result.stdout
    assert read_header(output).preprocessing == replace(Preprocessing(), margin=1.3)
    refused = deepfake("predict", "--faces", work, "--checkpoint", output)
    assert refused.exit_code == 2 and "margin 1.0, the checkpoint needs 1.3" in refused.stderr


def test_a_plain_state_dict_of_data_parallel_training_gives_the_same_network(
    official_file: Path, imported: Path, tmp_path: Path
) -> None:
    source, output = tmp_path / "plain.pkl", tmp_path / "plain.safetensors"
    state = {f"module.{name}": value for name, value in random_detector().state_dict().items()}
    torch.save(state, source, _use_new_zipfile_serialization=False)
    summary = import_weights(source, output)
    assert (summary.path, summary.source_sha256) == (output, file_digest(source))
    assert (summary.num_attentions, list(summary.left_out)) == (4, LEFT_OUT)
    expected, got = load_file(imported), load_file(output)
    assert expected.keys() == got.keys() and summary.tensors == len(got)
    assert all(torch.equal(value, got[name]) for name, value in expected.items())
    assert not load_checkpoint(str(output), build_model).network.training


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_numpy_values_of_every_version_of_numpy_do_not_matter(tmp_path: Path, module: str) -> None:
    source, buffer = tmp_path / "old.pth", io.BytesIO()
    content = {"logs": LOGS, "state_dict": NO_WEIGHTS_OF_OURS}
    torch.save(content, buffer, _use_new_zipfile_serialization=False)  # one pickle, in which names end at line ends
    written = np.float64.__reduce__(np.float64(1))[0].__module__.encode()
    assert written in buffer.getvalue()
    source.write_bytes(buffer.getvalue().replace(written, module.encode()))
    with pytest.raises(CheckpointError, match=r"1 left over: strange\.weight"):
        import_weights(source, tmp_path / "a.safetensors")


@pytest.mark.parametrize("place", ["logs", "state_dict"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_code_in_the_file_is_never_run(tmp_path: Path, place: str, is_zip: bool) -> None:
    mark = tmp_path / "code-was-run"
    content: dict[str, Any] = {"logs": {}, "state_dict": dict(NO_WEIGHTS_OF_OURS)}
    content[place]["x"] = RunsCode(mark)
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=is_zip)
    with pytest.raises(
        CheckpointError, match=r"is damaged or holds code \(getattr\), which is never run; get it again"
    ):
        import_weights(tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert not mark.exists()


def _save(content: Any) -> Callable[[Path], object]:
    return lambda path: torch.save(content, path)


def _write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _cut(path: Path) -> None:
    torch.save({"state_dict": {"x": torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[:2000])


def _write_safetensors(path: Path) -> None:
    from safetensors.torch import save

    path.write_bytes(save(NO_WEIGHTS_OF_OURS))


def _write_torchscript(path: Path) -> None:
    """The entry of the archive by which PyTorch itself tells it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("program/data.pkl", b"")
        archive.writestr("program/constants.pkl", b"")


SOURCES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: None, "does not exist; pass the authors' checkpoint as it was released, a PyTorch file"),
    "a folder": (lambda path: path.mkdir(), "cannot be read: Is a directory; pass the authors'"),
    "empty": (_write(b""), r"is not a PyTorch file \(a text, or a web page in its place\?\); pass the authors'"),
    "a web page": (_write(b"<!DOCTYPE html><html>quota exceeded</html>"), "is not a PyTorch file"),
    "noise after a zip's first bytes": (_write(b"PK\x03\x04" + bytes(range(256))), "is not a whole PyTorch file"),
    "noise after a pickle's first bytes": (_write(b"\x80\x02" + bytes(range(256))), "damaged|not a whole PyTorch file"),
    "cut off": (_cut, "is not a whole PyTorch file .*; get it again from its authors"),
    "safetensors": (_write_safetensors, "is a safetensors file already; if deepfake wrote it, use it as it is"),
    "TorchScript": (_write_torchscript, "is a TorchScript program, not a checkpoint; pass the authors'"),
    "a list": (_save([1, 2]), "holds no state dict; pass the authors'"),
    "nothing": (_save({}), "holds no state dict; pass the authors'"),
    "logs alone": (_save({"logs": {"epoch": 3}}), "holds no state dict: 'logs' is of type dict"),
    "a number among the weights": (_save({"state_dict": {"x": 3}}), "no state dict: 'x' is of type int"),
    "a NumPy array among the weights": (_save({"x": np.ones(3)}), "no state dict: 'x' is no tensor"),
    "weights without names": (_save({7: torch.ones(1)}), "no state dict: 7 is of type Tensor"),
    "another network": (
        _save({"fc.weight": torch.ones(2, 2)}),
        f"does not fit the layout {LAYOUT}: .* missing: .*; 1 left over: fc.weight; only checkpoints with EfficientNet-B4",
    ),
}


@pytest.mark.parametrize("case", SOURCES)
def test_another_file_is_refused_with_cause_and_remedy(tmp_path: Path, case: str) -> None:
    write, message = SOURCES[case]
    source, output = tmp_path / "source.pth", tmp_path / "a.safetensors"
    write(source)
    with pytest.raises(CheckpointError, match=message) as caught:
        import_weights(source, output)
    assert str(source) in str(caught.value)
    assert not output.exists()


@pytest.mark.parametrize(
    ("output", "settings", "message"),
    [
        ("there.safetensors", {}, r"there\.safetensors exists; name another output, or give --overwrite"),
        ("source.safetensors", {"overwrite": True}, "is the source itself; name another output"),
        ("none/a.safetensors", {}, "the folder .*none does not exist; make it, or name another output"),
        ("folder.safetensors", {"overwrite": True}, "is a folder; name a file"),
        ("a.pth", {}, r"must end in \.safetensors, got a\.pth; for example source\.safetensors"),
        ("a.safetensors", {"margin": 9.0}, "margin must be between 0.25 and 4, got 9.0"),
        ("a.safetensors", {"margin": float("nan")}, "margin must be between 0.25 and 4, got nan"),
        ("a.safetensors", {"layout": "other"}, f"layout must be one of {LAYOUT}, got other"),
    ],
)
def test_what_can_not_be_written_is_refused_before_the_source_is_read(
    tmp_path: Path, output: str, settings: dict[str, Any], message: str
) -> None:
    source = tmp_path / "source.safetensors"
    source.write_bytes(b"not read")
    (tmp_path / "there.safetensors").write_bytes(b"kept")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(ConfigError, match=message):
        import_weights(source, tmp_path / output, **settings)
    assert (tmp_path / "there.safetensors").read_bytes() == b"kept"


def test_overwrite_replaces_an_output_and_a_refused_source_does_not(
    deepfake: Deepfake, official_file: Path, imported: Path, tmp_path: Path
) -> None:
    output, wrong = tmp_path / "a.safetensors", tmp_path / "wrong.pth"
    output.write_bytes(b"kept")
    torch.save(NO_WEIGHTS_OF_OURS, wrong)
    command = ("weights", "import", "--from", LAYOUT, "-o", output)
    refused = deepfake(*command, wrong, "--overwrite")
    assert (refused.exit_code, refused.stdout, output.read_bytes()) == (2, "", b"kept")
    assert "error: " in refused.stderr and "1 left over: strange.weight" in refused.stderr
    assert deepfake(*command, official_file).exit_code == 2
    assert deepfake(*command, official_file, "--overwrite").exit_code == 0
    assert output.read_bytes() == imported.read_bytes()


def test_an_unknown_layout_is_answered_with_the_known_one(deepfake: Deepfake, tmp_path: Path) -> None:
    result = deepfake("weights", "import", tmp_path / "a.pth", "--from", "guess", "-o", tmp_path / "a.safetensors")
    assert result.exit_code == 2 and LAYOUT in result.stderr
