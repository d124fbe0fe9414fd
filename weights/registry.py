"""The registry of weights: one entry per name. A new file is one line here and one model card in this folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FOLDER = Path(__file__).parent

RESEARCH_LICENCE = "research use only (terms of the training data); see the model card"


@dataclass(frozen=True)
class WeightsEntry:
    """What is known of one weights file."""

    name: str
    kind: Literal["detector", "checkpoint"]
    sha256: str
    """Full digest, or the prefix that the publisher puts into the file's name."""
    licence: str
    description: str
    file: str | None = None
    """Name in this folder, for embedded weights."""
    url: str | None = None
    """Where `weights pull` fetches it, for weights that are not embedded; https."""
    card: str | None = None
    """Name of the model card in this folder."""

    @property
    def is_embedded(self) -> bool:
        return self.file is not None


REGISTRY: dict[str, WeightsEntry] = {
    entry.name: entry
    for entry in (
        WeightsEntry(
            name="retinaface-mobilenet0.25",
            kind="detector",
            sha256="a169012d0f87b7d8802ec5421738bf78716d614202ed3ecb39aee7b4404e31e8",
            licence=RESEARCH_LICENCE,
            description="default detector: RetinaFace MobileNet-0.25, trained here",
            file="retinaface-mobilenet0.25.safetensors",
            card="retinaface-mobilenet0.25.md",
        ),
        WeightsEntry(
            name="multi-attention-default",
            kind="checkpoint",
            sha256="28c71cb907489ca4bd9b0dbdd896d426738db116a56cf94482baafeb305f08b7",
            licence=RESEARCH_LICENCE,
            description="default checkpoint: multi-attention network on MobileNetV2 at 160 px, trained here",
            file="multi-attention-default.safetensors",
            card="multi-attention-default.md",
        ),
        WeightsEntry(
            name="retinaface-mobilenet0.25-official",
            kind="detector",
            sha256="2979b33ffafda5d74b6948cd7a5b9a7a62f62b949cef24e95fd15d2883a65220",
            licence="MIT",
            description="mobilenet0.25_Final.pth of biubug6/Pytorch_Retinaface",
        ),
        WeightsEntry(
            name="retinaface-resnet50-official",
            kind="detector",
            sha256="f168fae3c",
            licence="MIT",
            description="retinaface-pytorch's ResNet-50 of 2020-07-20",
            url="https://github.com/ternaus/retinaface/releases/download/0.01/retinaface_resnet50_2020-07-20-f168fae3c.zip",
        ),
    )
}


def find_entry(name: str) -> WeightsEntry | None:
    """The entry of a name, or None."""
    return REGISTRY.get(name)


def embedded_path(entry: WeightsEntry) -> Path:
    """Where an embedded file lies in the installed package."""
    if entry.file is None:
        raise ValueError(f"{entry.name} is not embedded")
    return FOLDER / entry.file
