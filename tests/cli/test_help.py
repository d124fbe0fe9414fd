"""Help is fast and complete, and its defaults are those of the settings."""

from __future__ import annotations

import enum
import inspect
import re
import subprocess
import sys
import time
import typing
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer

import pipelines
from deepfake_cli.app import app
from deepfake_cli.commands import calibrate, detect_faces, evaluate, extract_frames, import_faces, index, predict, train
from pipelines.config import (
    CalibrateConfig,
    DetectConfig,
    EvaluateConfig,
    ExtractConfig,
    ImportConfig,
    IndexConfig,
    PredictConfig,
    RunOptions,
)
from pipelines.training.config import PRESETS, TrainConfig, TrainOptions, make_train_config
from pipelines.training.settings import list_settings
from tests.conftest import Deepfake
from tests.support import REPOSITORY

HELP_SECONDS = 0.5
HEAVY_MODULES = ("torch", "torchvision", "timm", "pandas", "pyarrow", "cv2", "av", "retinaface")
COMMANDS: dict[str, tuple[Callable[..., None], type]] = {
    "index": (index.index, IndexConfig),
    "extract-frames": (extract_frames.extract_frames, ExtractConfig),
    "detect-faces": (detect_faces.detect_faces, DetectConfig),
    "import-faces": (import_faces.import_faces, ImportConfig),
    "train": (train.train, TrainOptions),
    "predict": (predict.predict, PredictConfig),
    "evaluate": (evaluate.evaluate, EvaluateConfig),
    "calibrate": (calibrate.calibrate, CalibrateConfig),
}
SETTING_OF = {
    "start": "start_seconds",
    "end": "end_seconds",
    "timeout": "timeout_seconds",
    "max_memory": "max_memory_mb",
}
"""Settings whose option has a shorter name."""
TRAIN_SETTING_OF = {"lr": "learning_rate"}
"""Settings of `train` whose option is not the last part of their path."""
FORMER_NAMES = ("pictures", "kinds", "rounds")
"""Hidden options of `evaluate`."""
NO_SETTINGS = {
    "inputs", "workspace", "labels", "source", "faces", "run", "output", "json_lines", "details", "quiet", "verbose",
    "log_file", "assignments", "show_settings", "preview_augmentations", "preset", "split",
    "dataset", "root", "check", "download_help", "sources", "plots", "excel_safe", *FORMER_NAMES,
}  # fmt: skip
"""Options for inputs, outputs and messages, which are not settings."""


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


@pytest.mark.parametrize(
    "arguments",
    [
        ["-h"],
        ["predict", "--help"],
        ["train", "--help"],
        ["index", "--help"],
        ["evaluate", "--help"],
        ["calibrate", "--help"],
        ["merge", "--help"],
        ["weights", "list"],
    ],
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom deepfake_cli.app import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit:\n    pass\n"
        f"print('imported:', sorted(set({HEAVY_MODULES!r}) & set(sys.modules)))"
    )
    assert _run_python("-c", code).splitlines()[-1] == "imported: []"


def test_the_version_is_that_of_the_package() -> None:
    assert _run_python("-m", "deepfake_cli", "--version") == f"deepfake {pipelines.__version__}\n"


def _all_commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    """The program and every command in it, each with the words that name it."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), typer.main.get_command(app))]
    while waiting:
        words, command = waiting.pop()
        yield words, command
        waiting += [((*words, name), child) for name, child in getattr(command, "commands", {}).items()]


ALL_COMMANDS = dict(_all_commands())


@pytest.mark.parametrize("words", ALL_COMMANDS, ids=" ".join)
def test_every_command_has_short_help_with_a_plain_usage_and_an_example(
    deepfake: Deepfake, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    text = deepfake(*words, "-h").stdout
    assert text == deepfake(*words, "--help").stdout
    assert "[[" not in text and "…" not in text
    assert f"Example: {' '.join(('deepfake', *words))}" in text


def test_commands_stand_in_groups_and_shell_completion_is_offered(deepfake: Deepfake) -> None:
    text = deepfake("-h").stdout
    panels = [text.index(f"─ {panel} ─") for panel in ("Score", "Build a dataset", "Train and measure", "Housekeeping")]
    assert panels == sorted(panels) and "─ Commands ─" not in text
    assert "--install-completion" in text and "--show-completion" in text


def test_workers_mean_the_same_everywhere() -> None:
    texts = {
        parameter.help
        for command in ALL_COMMANDS.values()
        for parameter in command.params
        if parameter.name == "workers"
    }
    assert len(texts) == 1


def test_no_arguments_are_a_question_for_help(deepfake: Deepfake) -> None:
    result = deepfake()
    assert "Usage: deepfake [OPTIONS] COMMAND" in result.stdout + result.stderr
    assert "train" in result.stdout + result.stderr


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


def _train_settings() -> dict[str, inspect.Parameter]:
    """The options of `train` that change a setting, by the setting's path."""
    paths = list_settings(TrainConfig())
    running = {field.name for field in fields(TrainOptions)} - {"batch_size"}  # the detector's, not that of the steps
    chosen = {}
    for option, parameter in inspect.signature(train.train).parameters.items():
        if option not in NO_SETTINGS | running:
            name = TRAIN_SETTING_OF.get(option, option)
            (path,) = [path for path in paths if name in (path, path.rpartition(".")[2])]
            chosen[path] = parameter
    return chosen


@pytest.mark.parametrize("command", COMMANDS)
def test_every_default_is_that_of_the_settings(command: str) -> None:
    function, config = COMMANDS[command]
    settings = {field.name for field in fields(config)}
    running = {field.name for field in fields(RunOptions)}
    presets = {parameter.name for parameter in _train_settings().values()} if command == "train" else set()
    for option, parameter in inspect.signature(function).parameters.items():
        if option in NO_SETTINGS | presets:
            continue
        setting = SETTING_OF.get(option, option)
        assert setting in settings | running, f"{command} --{option} is not a setting"
        expected = getattr(config if setting in settings else RunOptions, setting)
        assert _plain(parameter.default) == _plain(expected), f"{command} --{option}"


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "train"])
def test_every_setting_has_an_option(command: str) -> None:
    function, config = COMMANDS[command]
    options = {SETTING_OF.get(option, option) for option in inspect.signature(function).parameters}
    assert {field.name for field in fields(config)} <= options


def test_every_way_to_train_has_an_option() -> None:
    options = inspect.signature(train.train).parameters.keys()
    # of the detector, of the inputs and of decoding, which `train` has none of
    unused = {"batch_size", "verify", "shard", "isolate", "timeout_seconds", "max_memory_mb"}
    assert {field.name for field in fields(TrainOptions)} - unused <= {*options, *train.NOT_LEARNED}


def test_a_setting_of_train_that_is_not_given_is_that_of_the_preset(deepfake: Deepfake) -> None:
    options = _train_settings()
    assert len(options) == 10 and {parameter.default for parameter in options.values()} == {None}
    assert inspect.signature(train.train).parameters["preset"].default == TrainConfig.preset
    for preset, config in PRESETS.items():
        shown = deepfake("train", "-w", "work", "--preset", preset, "--show-settings").stdout
        assert _read_settings(shown) == {name: _shown(value) for name, value in list_settings(config).items()}


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _read_settings(text: str) -> dict[str, str]:
    return dict(line.split(" = ") for line in text.splitlines())


def _another(value: Any, hint: Any) -> Any:
    """A value that is not the default, of the same kind."""
    if typing.get_origin(hint) is typing.Literal:
        return next(each for each in typing.get_args(hint) if each != value)
    return value + 1 if isinstance(value, int) else {float: 0.25}.get(type(value), "other")


def test_every_setting_option_of_train_changes_its_setting_alone(deepfake: Deepfake) -> None:
    before = list_settings(TrainConfig())
    hints = typing.get_type_hints(train.train)
    special = {"batch_size": 52}
    for path, parameter in _train_settings().items():
        kind = typing.get_args(hints[parameter.name])[0]
        value = special.get(parameter.name, _another(before[path], kind))
        flag = f"--{parameter.name.replace('_', '-')}"
        result = deepfake("train", "-w", "work", flag, value, "--show-settings")
        assert result.exit_code == 0, (flag, result.stderr)
        shown = _read_settings(result.stdout)
        changed = {name for name, text in shown.items() if text != _shown(before[name])}
        assert changed == {path}, flag
        assert shown[path].replace(" ", ",") == str(value), flag


def test_every_setting_of_train_can_be_set(deepfake: Deepfake) -> None:
    settings = list_settings(make_train_config("reference"))
    given = [item for item in settings.items() if item[0] != "preset"]
    assignments = [part for name, value in given for part in ("--set", f"{name}={_shown(value)}")]
    result = deepfake("train", "-w", "work", "--preset", "reference", *assignments, "--show-settings")
    assert result.exit_code == 0, result.stderr
    assert _read_settings(result.stdout) == {name: _shown(value) for name, value in settings.items()}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--epochs", "2", "--set", "epochs=3"], {"epochs": "3"}),
        (["--lr", "0.1", "--set", "optimization.learning_rate=0.2"], {"optimization.learning_rate": "0.2"}),
        (["--set", "learning_rate=0.2", "--lr", "0.1"], {"optimization.learning_rate": "0.2"}),
        (["--set", "num_attentions=3"], {"network.num_attentions": "3"}),
        (["--set", "mode=none"], {"agda.mode": "none"}),
        (["--set", "ril.weight=1", "--set", "ril.weight=2"], {"ril.weight": "2.0"}),
        (["--set", "inner_margins=0.2,-0.8"], {"ril.inner_margins": "0.2 -0.8"}),
        (["--preset", "reference", "--epochs", "30"], {"epochs": "30", "backbone_epochs": "20"}),
    ],
)
def test_set_comes_last(deepfake: Deepfake, arguments: list[str], expected: dict[str, str]) -> None:
    result = deepfake("train", "-w", "work", *arguments, "--show-settings")
    assert result.exit_code == 0, result.stderr
    shown = _read_settings(result.stdout)
    assert {name: shown[name] for name in expected} == expected


def test_help_of_train_shows_the_defaults_of_the_presets(deepfake: Deepfake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 200)
    text = re.sub(r"[\s│╭╮╰╯─]+", " ", deepfake("train", "--help").stdout)
    assert "Number of epochs. Default: 20, reference 50, f-bifpn-mtlnet 100, f-bifpn-mtlnet-small 20." in text
    for path, parameter in _train_settings().items():
        described = text.split(f" --{parameter.name.replace('_', '-')} ", 1)[1].split(" --", 1)[0]
        assert f"Default: {list_settings(TrainConfig())[path]}" in described


def test_set_reaches_what_changes_no_result(deepfake: Deepfake, tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    refused = deepfake("train", "-w", tmp_path / "work", "--set", "cache_gb=-1", "--set", "workers=1")
    assert refused.exit_code == 2 and "cache_gb must be >= 0, got -1.0" in refused.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_every_option_with_its_default(
    deepfake: Deepfake, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 200)
    text = re.sub(r"[\s│╭╮╰╯─]+", " ", deepfake(command, "--help").stdout)
    for option, parameter in inspect.signature(COMMANDS[command][0]).parameters.items():
        if option in ("inputs", "source", "sources", "dataset", "root"):
            continue
        if option in FORMER_NAMES:
            continue
        flag = {"json_lines": "--json", "assignments": "--set"}.get(option, f"--{option.replace('_', '-')}")
        assert f" {flag} " in text, flag
        default = _plain(parameter.default)
        if default is not inspect.Parameter.empty and default is not None and default is not False and default != "":
            described = text.split(f" {flag} ", 1)[1].split(" --", 1)[0]
            assert f"default: {default}" in described, flag
