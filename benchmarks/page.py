"""docs/benchmarks.md from what was measured and the words of `benchmarks_template.md`."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from benchmarks.embedded_weights import markdown_table

TEMPLATE = Path(__file__).with_name("benchmarks_template.md")
STAGES = ("decode", "detect", "classify", "whole")
NAMES = {
    "naive": "naive: decord, predict_jsons at 960 px, B4 in float32",
    "large 960": "ours: ResNet-50 at 960 px, B4 in OpenVINO, bf16",
    "large 640": "ours: ResNet-50 at 640 px, B4 in OpenVINO, bf16",
    "embedded": "ours: the embedded networks, float32",
    "embedded bf16": "ours: the embedded networks, bf16",
}


def write_page(page: Path, measured: Mapping[str, Any]) -> None:
    """Fill the template; a part that was not measured is an error: the page shall not show half of an older one."""
    rounds = measured["pipelines"]
    values = {
        "date": date.today().isoformat(),
        "machine": f"{platform.system()} on {platform.machine()}, torch {version('torch')}",
        "pipelines": markdown_table(("pipeline", *STAGES, "whole, naive over ours", "start"), pipeline_rows(rounds)),
        "clips": markdown_table(("clip", "size", *STAGES, "real time"), clip_rows(measured["clips"])),
        "profile": markdown_table(("part", "share", "seconds"), profile_rows(measured["profile"])),
        "classifiers": markdown_table(
            ("classifier", "faces/s", "over B4 naive"), classifier_rows(measured["classifiers"])
        ),
        "limits": markdown_table(("", "the machine", "ours", "share"), limit_rows(measured)),
        "goals": markdown_table(("what", "goal", "measured", ""), goal_rows(measured)),
        "memory": ", ".join(f"{name} {peak:.0f} MB" for name, peak in measured["memory"].items()),
    }
    page.write_text(Template(TEMPLATE.read_text("utf-8")).substitute(values), "utf-8")


def pipeline_rows(rounds: Sequence[Sequence[Mapping[str, Any]]]) -> list[list[str]]:
    rows = []
    for way, name in NAMES.items():
        runs = [run for each in rounds for run in each if run["way"] == way]
        seconds = [f"{np.median([run[stage] for run in runs]):.2f} s" for stage in STAGES]
        rows.append(
            [name, *seconds, show_spread(ratios(rounds, way)), f"{np.median([run['start'] for run in runs]):.1f} s"]
        )
    return rows


def clip_rows(clips: Mapping[str, Any]) -> list[list[str]]:
    return [
        [name, clip["size"], *(f"{clip[stage]:.2f} s" for stage in STAGES), f"{clip['length'] / clip['whole']:.1f}x"]
        for name, clip in clips.items()
    ]


def ratios(rounds: Sequence[Sequence[Mapping[str, Any]]], way: str) -> list[float]:
    """Seconds of the naive pipeline over those of another in the same round."""
    whole = [{run["way"]: run["whole"] for run in each} for each in rounds]
    return [each["naive"] / each[way] for each in whole]


def show_spread(values: Sequence[float]) -> str:
    return f"{np.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def profile_rows(seconds: Mapping[str, float]) -> list[list[str]]:
    whole = sum(seconds.values())
    return [
        [name, f"{value / whole:.0%}", f"{value:.2f}"]
        for name, value in sorted(seconds.items(), key=lambda item: -item[1])
    ]


def classifier_rows(rates: Mapping[str, float]) -> list[list[str]]:
    return [[name, f"{rate:.1f}", f"{rate / rates['B4 naive']:.1f}"] for name, rate in rates.items()]


def limit_rows(measured: Mapping[str, Any]) -> list[list[str]]:
    """How much of what a large matrix product, or a plain copy, reaches the networks and the decoder do."""
    values, rows = measured["limits"], []
    most = values["matmul float32 GFLOP/s"]
    for name in ("B4", "embedded classifier", "ResNet-50 detector", "embedded detector"):
        rate = values[f"{name} GFLOP"] / values[f"{name} seconds"]
        rows.append(
            [
                f"{name}, float32 ({values[f'{name} GFLOP']:.2f} GFLOP)",
                f"{most:.0f} GFLOP/s",
                f"{rate:.0f} GFLOP/s",
                f"{rate / most:.0%}",
            ]
        )
    written = values["frame bytes"] * values["frames"] / measured["decoders"]["sampled"] / 1e9
    rows.append(
        [
            "decoder (bytes of decoded frames)",
            f"{values['copy GB/s']:.1f} GB/s",
            f"{written:.2f} GB/s",
            f"{written / values['copy GB/s']:.0%}",
        ]
    )
    return rows


def goal_rows(measured: Mapping[str, Any]) -> list[list[str]]:
    rounds, rates = measured["pipelines"], measured["classifiers"]
    b4 = {name: rate for name, rate in rates.items() if name.startswith("B4 ") and name != "B4 naive"}
    best = max(b4, key=lambda name: b4[name])
    embedded, seconds = rates["embedded torch float32"], measured["workers"]
    large = max(("large 960", "large 640"), key=lambda way: float(np.median(ratios(rounds, way))))
    found = measured["detectors"]
    peak = max(measured["memory"].values()) / 1024
    rows: list[tuple[str, float, float, str]] = [
        (f"predict with ResNet-50 and B4 against naive ({large})", 8, float(np.median(ratios(rounds, large))), "x"),
        ("predict with the embedded networks against naive", 25, float(np.median(ratios(rounds, "embedded"))), "x"),
        (
            "detection alone, ResNet-50 at 960 px, bf16, against predict_jsons",
            4,
            found["bf16"] / found["predict_jsons"],
            "x",
        ),
        ("the same in float32", 4, found["float32"] / found["predict_jsons"], "x"),
        (
            f"B4 alone ({best.removeprefix('B4 ')}) against float32, contiguous, one at a time",
            4,
            b4[best] / rates["B4 naive"],
            "x",
        ),
        ("embedded classifier alone, float32, against B4 naive", 15, embedded / rates["B4 naive"], "x"),
        ("two workers on 16 clips against one on one core", 1.7, seconds["one on one core"] / seconds["two"], "x"),
        (
            "decoding the sampled frames against all frames in order",
            0.9,
            measured["decoders"]["bare"] / measured["decoders"]["sampled"],
            "x",
        ),
    ]
    shown = [
        [what, f"{goal:g}{unit}", f"{value:.2f}{unit}", "" if value >= goal else "short"]
        for what, goal, value, unit in rows
    ]
    shown.append(["peak memory on an hour of 1080p", "1.5 GB", f"{peak:.2f} GB", "" if peak < 1.5 else "short"])
    finished = measured["resume"]["seconds"]
    shown.append(["resume check of 6,000 finished videos", "6 s", f"{finished:.1f} s", "" if finished < 6 else "short"])
    return shown
