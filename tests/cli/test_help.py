"""Help is there at once, and its defaults are those of the settings, the one place where they live."""

from __future__ import annotations

import enum
import inspect
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

import deepfake_cli
from deepfake_cli.commands import detect_faces, extract_frames, import_faces, predict, train
from pipelines.config import DetectConfig, ExtractConfig, ImportConfig, PredictConfig, RunOptions, TrainConfig
from tests.conftest import Deepfake
from tests.support import REPOSITORY

HELP_SECONDS = 0.5
HEAVY_MODULES = ("torch", "torchvision", "timm", "pandas", "pyarrow", "cv2", "av", "retinaface")
COMMANDS: dict[str, tuple[Callable[..., None], type]] = {
    "extract-frames": (extract_frames.extract_frames, ExtractConfig),
    "detect-faces": (detect_faces.detect_faces, DetectConfig),
    "import-faces": (import_faces.import_faces, ImportConfig),
    "train": (train.train, TrainConfig),
    "predict": (predict.predict, PredictConfig),
}
SETTING_OF = {
    "start": "start_seconds",
    "end": "end_seconds",
    "attentions": "num_attentions",
    "drop_path": "drop_path_rate",
    "lr": "learning_rate",
    "ema": "ema_decay",
}
"""Settings whose option is shorter than their name."""
NO_SETTINGS = {
    "inputs", "workspace", "labels", "source", "faces", "run", "output", "json_lines", "details", "quiet", "verbose",
    "log_file",
}  # fmt: skip
"""Options that say where to read and write, and how much to say."""


def _run_python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return done.stdout


def test_help_is_there_at_once() -> None:
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        assert "extract-frames" in _run_python("-m", "deepfake_cli", "--help")
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < HELP_SECONDS


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"], ["train", "--help"], ["weights", "list"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom deepfake_cli.app import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit:\n    pass\n"
        f"print('imported:', sorted(set({HEAVY_MODULES!r}) & set(sys.modules)))"
    )
    assert _run_python("-c", code).splitlines()[-1] == "imported: []"


def test_the_version_is_that_of_the_package() -> None:
    assert _run_python("-m", "deepfake_cli", "--version") == f"deepfake {deepfake_cli.__version__}\n"
    project = (REPOSITORY / "pyproject.toml").read_text("utf-8")
    assert f'\nversion = "{deepfake_cli.__version__}"\n' in project


def test_no_arguments_are_a_question_for_help(deepfake: Deepfake) -> None:
    result = deepfake()
    assert "Usage: deepfake [OPTIONS] COMMAND" in result.stdout + result.stderr
    assert "train" in result.stdout + result.stderr


def _setting(command: str, option: str) -> str:
    if (command, option) == ("train", "batch_size"):
        return "train_batch_size"
    return SETTING_OF.get(option, option)


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


@pytest.mark.parametrize("command", COMMANDS)
def test_every_default_is_that_of_the_settings(command: str) -> None:
    function, config = COMMANDS[command]
    settings = {field.name for field in fields(config)}
    running = {field.name for field in fields(RunOptions)}
    for option, parameter in inspect.signature(function).parameters.items():
        if option in NO_SETTINGS:
            continue
        setting = _setting(command, option)
        assert setting in settings | running, f"{command} --{option} is not a setting"
        expected = getattr(config if setting in settings else RunOptions, setting)
        assert _plain(parameter.default) == _plain(expected), f"{command} --{option}"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_setting_has_an_option(command: str) -> None:
    function, config = COMMANDS[command]
    options = {_setting(command, option) for option in inspect.signature(function).parameters}
    assert {field.name for field in fields(config)} <= options


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_every_option_with_its_default(
    deepfake: Deepfake, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    monkeypatch.setenv("COLUMNS", "200")
    text = re.sub(r"[\s│╭╮╰╯─]+", " ", deepfake(command, "--help").stdout)
    for option, parameter in inspect.signature(COMMANDS[command][0]).parameters.items():
        if option in ("inputs", "source"):
            continue
        flag = {"json_lines": "--json"}.get(option, f"--{option.replace('_', '-')}")
        assert f" {flag} " in text, flag
        default = _plain(parameter.default)
        if default is not inspect.Parameter.empty and default is not None and default is not False:
            described = text.split(f" {flag} ", 1)[1].split(" --", 1)[0]
            assert f"default: {default}" in described, flag
