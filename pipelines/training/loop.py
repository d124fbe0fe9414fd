"""The training loop: one epoch after another, each a function of the state before it and of (seed, epoch).

That is why a run that was stopped and resumed at an epoch's end equals the undisturbed one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.config import TrainConfig
from pipelines.data.faces import FaceImages, draw_balanced, load_batches
from pipelines.errors import TrainingDivergedError
from pipelines.models.multi_attention.network import MultiAttentionDetector
from pipelines.preprocessing import to_network_input
from pipelines.records import EpochRow
from pipelines.scoring.metrics import log_loss, mean_by_group, roc_auc
from pipelines.training.attention_augmentation import AttentionAugmentation
from pipelines.training.losses import RegionalIndependenceLoss
from pipelines.training.optimization import learning_rate_factor, make_optimizer, set_learning_rate

Phase = Literal["backbone", "network"]
EVALUATION_BATCH_SIZE = 64


@dataclass
class StepLosses:
    """Losses of one step, or their means over an epoch."""

    total: float = 0.0
    ce: float = 0.0
    ce_augmented: float | None = None
    ril: float | None = None


class Trainer:
    """The state of a training run and the ways it moves forward."""

    def __init__(self, network: MultiAttentionDetector, config: TrainConfig, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(self.network) if config.ema_decay else self.network
        self.optimizer = make_optimizer(self.network.parameters(), config)
        self.ril = RegionalIndependenceLoss(config.num_attentions, network.backbone.texture_channels).to(device)
        self.agda = AttentionAugmentation()
        self.finished_epochs = 0
        self.rows: list[EpochRow] = []

    def phase_of(self, epoch: int) -> Phase:
        """What epoch `epoch` (from 0) trains: the backbone with its own head first, then the whole network."""
        return "backbone" if epoch < self.config.backbone_epochs else "network"

    def augments(self, epoch: int) -> bool:
        """Whether the epoch has the second, attention-guided pass. One map leaves nothing else to look at: never then."""
        if self.config.augment == "none" or self.config.num_attentions == 1 or self.phase_of(epoch) == "backbone":
            return False
        return not self.config.augment_epochs or epoch >= self.config.epochs - self.config.augment_epochs

    def run_epoch(
        self,
        images: FaceImages,
        validation: FaceImages,
        *,
        workers: int,
        on_step: Callable[[int, int, StepLosses], None],
    ) -> EpochRow:
        """Train one epoch, validate, and append its row."""
        epoch, config = self.finished_epochs, self.config
        torch.manual_seed(_seed_of(config.seed, epoch))
        rng = np.random.default_rng((config.seed, epoch))
        generator = torch.Generator().manual_seed(_seed_of(config.seed, epoch) + 1)
        order = draw_balanced(images.faces, self.samples_per_epoch(images), rng)
        steps = len(order) // config.train_batch_size
        sums: list[StepLosses] = []
        self.network.train()
        for step, (batch, labels) in enumerate(
            load_batches(images, order, config.train_batch_size, seed=(config.seed, epoch, 1), workers=workers)
        ):
            rate = config.learning_rate * learning_rate_factor(
                epoch * steps + step,
                total_steps=config.epochs * steps,
                warmup_steps=config.warmup_steps,
                schedule=config.schedule,
            )
            set_learning_rate(self.optimizer, rate)
            inputs = to_network_input(batch, images.contract, self.device)
            losses = self._step(inputs, torch.from_numpy(labels).to(self.device), epoch, generator)
            if not np.isfinite(losses.total):
                raise TrainingDivergedError(
                    f"the loss became {losses.total} in epoch {epoch + 1}, batch {step + 1}; "
                    "lower --lr or add --warmup-steps, then resume: the last whole epoch is kept"
                )
            sums.append(losses)
            on_step(step + 1, steps, losses)
        if self.phase_of(epoch) == "network":
            self.ril.end_epoch()
        row = self._make_row(epoch, rate, sums, len(sums) * config.train_batch_size, validation)
        self.rows.append(row)
        self.finished_epochs += 1
        return row

    def samples_per_epoch(self, images: FaceImages) -> int:
        """Faces drawn per epoch: whole batches, at least one."""
        batch = self.config.train_batch_size
        return max(1, (self.config.samples_per_epoch or len(images)) // batch) * batch

    def _step(self, inputs: Tensor, labels: Tensor, epoch: int, generator: torch.Generator) -> StepLosses:
        """One update: equation 5, with the cross-entropy of the degraded images where the epoch has them."""
        losses = StepLosses()
        if self.phase_of(epoch) == "backbone":
            total = F.cross_entropy(self.network.classify_backbone(inputs), labels)
            losses.ce = total.item()
        else:
            output = self.network(inputs)
            ce = F.cross_entropy(output.logits, labels)
            total, losses.ce = ce, ce.item()
            if self.config.num_attentions > 1 and self.config.ril_weight:
                ril = self.ril(output.region_vectors, labels)
                total, losses.ril = total + self.config.ril_weight * ril, ril.item()
            if self.augments(epoch):
                degraded, _ = self.agda(inputs, output.attention_maps.detach(), generator)
                ce_augmented = F.cross_entropy(self.network(degraded).logits, labels)
                total, losses.ce_augmented = total + ce_augmented, ce_augmented.item()
        losses.total = total.item()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self._update_average()
        return losses

    @torch.no_grad()
    def _update_average(self) -> None:
        if self.average is self.network:
            return
        decay = self.config.ema_decay
        for mean, now in zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(now, 1 - decay)
            else:
                mean.copy_(now)

    def _make_row(
        self, epoch: int, rate: float, steps: Sequence[StepLosses], images: int, validation: FaceImages
    ) -> EpochRow:
        auc, loss, videos = self.validate(validation, self.phase_of(epoch))
        earlier = [row.val_auc for row in self.rows if row.phase == self.phase_of(epoch)]
        return EpochRow(
            epoch=epoch + 1,
            phase=self.phase_of(epoch),
            learning_rate=rate,
            train_loss=_mean([step.total for step in steps]) or 0.0,
            train_ce=_mean([step.ce for step in steps]) or 0.0,
            train_ce_augmented=_mean([step.ce_augmented for step in steps]),
            train_ril=_mean([step.ril for step in steps]),
            val_auc=auc,
            val_log_loss=loss,
            val_videos=videos,
            images=images,
            is_best=all(auc > value for value in earlier),
        )

    def validate(self, images: FaceImages, phase: Phase) -> tuple[float, float, int]:
        """AUC and log loss of the videos' mean probabilities, and their number."""
        probabilities = self.score_faces(images, phase)
        videos = [face.video_id for face in images.faces]
        labels = [face.label for face in images.faces]
        _, scores = mean_by_group(videos, probabilities)
        _, truth = mean_by_group(videos, labels)
        return roc_auc(truth, scores), log_loss(truth, scores), len(scores)

    @torch.inference_mode()
    def score_faces(self, images: FaceImages, phase: Phase) -> npt.NDArray[np.float64]:
        """Fake probabilities (N,) by the averaged weights."""
        self.average.eval()
        parts = []
        for indices in _in_batches(range(len(images)), EVALUATION_BATCH_SIZE):
            inputs = to_network_input([images.evaluation_image(i) for i in indices], images.contract, self.device)
            logits = self.average.classify_backbone(inputs) if phase == "backbone" else self.average(inputs).logits
            parts.append(logits.float().softmax(dim=1)[:, 1].cpu().double().numpy())
        return np.concatenate(parts)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next epoch depends on."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.state_dict() if self.average is not self.network else None,
            "optimizer": self.optimizer.state_dict(),
            "ril": self.ril.state_dict(),
            "rows": [vars(row) for row in self.rows],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        if state["average"] is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ril.load_state_dict(state["ril"])
        self.rows = [EpochRow(**row) for row in state["rows"]]
        self.finished_epochs = len(self.rows)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _seed_of(seed: int, epoch: int) -> int:
    return (seed * 1_000_003 + epoch) % 2**31


def _in_batches(indices: range, size: int) -> Iterator[range]:
    for start in range(0, len(indices), size):
        yield indices[start : start + size]
