"""The training loop. Every step is a function of the state before it and of (seed, epoch, step).

Therefore a run that was stopped after any step and resumed equals an undisturbed one.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from pipelines.checkpoints.preprocessing import to_network_input
from pipelines.data.faces import Batch, FaceImages, load_batches
from pipelines.data.samplers import draw_balanced, draw_blended, draw_pairs
from pipelines.errors import DeepfakeError
from pipelines.models.backbone import BackboneClassifier, synchronize_batch_norm
from pipelines.models.f_bifpn_mtlnet.network import FBiFPNMTLNet
from pipelines.models.multi_attention.network import MultiAttentionDetector
from pipelines.records import EpochRow
from pipelines.training.config import TrainConfig
from pipelines.training.multi_task_step import MultiTaskStep
from pipelines.training.optimization import learning_rate_factor, make_optimizer, set_learning_rate
from pipelines.training.sharpness import take_sharp_gradient
from pipelines.training.step import Network, Phase, StepLosses, TrainingStep
from pipelines.training.validation import ValidationScores, validate

Result = TypeVar("Result")
Means = dict[str, float]
"""The fields of StepLosses by name."""


@dataclass(frozen=True)
class StepReport:
    """The result of one step."""

    epoch: int
    """From 0, like `step`."""
    step: int
    steps: int
    losses: Means
    learning_rate: float
    gradient_norm: float
    """Before clipping."""


@dataclass(frozen=True)
class EpochReport:
    """The result of one epoch."""

    row: EpochRow
    images_per_second: float
    """Over the steps since the last start, without validation."""
    loader_share: float
    """Share of the time spent waiting for images."""
    seconds: float


class Diverged(Exception):
    """A loss or its gradient is not finite; keeps what it was computed from."""

    def __init__(self, report: StepReport, batch: Batch, inputs: Tensor) -> None:
        super().__init__(f"losses {report.losses}")
        self.report, self.batch, self.inputs = report, batch, inputs


class StepInputs(NamedTuple):
    """One step's batch, or one of its parts, on the device."""

    images: Tensor
    """(N, 3, H, W) normalised."""
    labels: Tensor
    """(N,)."""
    masks: Tensor
    """(N, H, W) in 0..1, 1 where forged; for a network that does not learn masks, without pixels: (N, 0, 0)."""
    known: Tensor
    """(N,) 1 where the mask is known, else 0."""

    def chunk(self, parts: int) -> list[StepInputs]:
        return [StepInputs(*each) for each in zip(*(tensor.chunk(parts) for tensor in self), strict=True)]


def _stack_masks(batch: Batch) -> tuple[Tensor, Tensor]:
    """Masks (N, H, W) in 0..1, zero where unknown, and whether they are known, (N,)."""
    masks = batch.masks or [None] * len(batch.images)
    shape = next((mask.shape for mask in masks if mask is not None), (0, 0))
    stacked = np.stack([np.zeros(shape, np.uint8) if mask is None else mask for mask in masks])
    known = torch.tensor([float(mask is not None) for mask in masks])
    return torch.from_numpy(stacked).float() / 255, known


def on_first_process(fabric: Fabric, action: Callable[[], Result]) -> Result:
    """Run an action in the first process; return its result, or raise its error, in all of them, so that none waits forever."""
    result: Result | None = None
    error: DeepfakeError | None = None
    if fabric.is_global_zero:
        try:
            result = action()
        except DeepfakeError as caught:
            error = caught
    result, error = fabric.broadcast((result, error))
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


class Trainer:
    """The state of a training run, and the steps and epochs that advance it."""

    def __init__(self, network: Network, config: TrainConfig, fabric: Fabric | None = None) -> None:
        self.config = config
        self.fabric = fabric = fabric or Fabric(accelerator="cpu", devices=1)
        network = network.to(memory_format=torch.channels_last)
        if fabric.device.type == "cuda" and fabric.world_size > 1:
            network = synchronize_batch_norm(network)
        self.network: Network = network
        self.step_module: TrainingStep | MultiTaskStep = (
            MultiTaskStep(network, config) if isinstance(network, FBiFPNMTLNet) else TrainingStep(network, config)
        )
        self._wrapped = fabric.setup_module(self.step_module)
        self._freezable = _list_freezable(network)
        self.average = copy.deepcopy(network) if config.optimization.ema_decay else network
        self.finished_epochs = 0
        self.step = 0
        """Finished steps of the epoch in progress."""
        self.rows: list[EpochRow] = []
        self._sums: list[Means] = []
        self._open_phase(self.phase_of(0))

    def phase_of(self, epoch: int) -> Phase:
        """What epoch `epoch` (from 0) trains: first the backbone with a separate head, then the whole network."""
        return "backbone" if epoch < self._backbone_epochs else "network"

    @property
    def _backbone_epochs(self) -> int:
        return self.config.backbone_epochs if isinstance(self.network, MultiAttentionDetector) else 0

    @property
    def is_done(self) -> bool:
        """Whether all epochs are finished, or the validation AUC has not improved for `patience` of them."""
        if self.finished_epochs >= self.config.epochs:
            return True
        rows = [row for row in self.rows if row.phase == "network"]
        since_best = len(rows) - max((i + 1 for i, row in enumerate(rows) if row.is_best), default=0)
        return bool(self.config.patience and since_best >= self.config.patience)

    def freezes_backbone(self, epoch: int) -> bool:
        """Whether the epoch keeps the backbone's weights: the first ones of the phase that trains the whole network may."""
        return 0 <= epoch - self._backbone_epochs < self.config.optimization.freeze_backbone_epochs

    def augments(self, epoch: int) -> bool:
        """Whether the epoch has the second, attention-guided pass; never with a single map, as none would remain."""
        agda = self.config.agda
        if agda.mode == "none" or not self.config.separates_maps or self.phase_of(epoch) == "backbone":
            return False
        return not agda.last_epochs or epoch >= self.config.epochs - agda.last_epochs

    def run_epoch(
        self,
        images: FaceImages,
        validation: FaceImages,
        *,
        workers: int,
        on_step: Callable[[StepReport], None] = lambda report: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> EpochReport | None:
        """Train the epoch in progress to its end, validate and append its row; returns None if stopped between two steps.

        Raises:
            Diverged: a loss or its gradient is not finite; the weights are those before the step.
        """
        epoch = self.finished_epochs
        self._open_phase(self.phase_of(epoch))
        self._set_training(epoch)
        clock = _Clock()
        with closing(self._batches(images, epoch, workers)) as batches:  # ends the threads after an error, too
            for batch in clock.waiting_for(batches):
                on_step(self._run_step(batch, images, epoch))
                if self._any_process(should_stop()) and self.step < self.steps_per_epoch(images):
                    return None
        clock.stop(faces=self.config.optimization.batch_size)
        self._close_epoch(validation)
        return EpochReport(self.rows[-1], clock.images_per_second, clock.loader_share, clock.seconds)

    def steps_per_epoch(self, images: FaceImages) -> int:
        """The number of complete batches, at least one."""
        return max(1, (self.config.samples_per_epoch or len(images)) // self.config.optimization.batch_size)

    def _any_process(self, answer: bool) -> bool:
        if self.fabric.world_size == 1:
            return answer
        return bool(self.fabric.all_reduce(torch.tensor(float(answer), device=self.fabric.device), reduce_op="sum"))

    def _batches(self, images: FaceImages, epoch: int, workers: int) -> Generator[Batch, None, None]:
        optimization, seed = self.config.optimization, self.config.seed
        count = self.steps_per_epoch(images) * optimization.batch_size
        blended = draw_blended(count, self.config.self_blend, np.random.default_rng((seed, epoch, 2)))
        draw = draw_pairs if self.config.pair_originals else draw_balanced
        order = draw(images.faces, count, np.random.default_rng((seed, epoch)), blended)
        return load_batches(
            images,
            order,
            optimization.batch_size,
            seed=(seed, epoch, 1),
            workers=workers,
            first_step=self.step,
            rank=self.fabric.global_rank,
            world_size=self.fabric.world_size,
            blended=blended,
        )

    def _run_step(self, batch: Batch, images: FaceImages, epoch: int) -> StepReport:
        rate = self._set_rate(epoch, self.steps_per_epoch(images))
        steps = self.steps_per_epoch(images)
        inputs = to_network_input(batch.images, images.contract, self.fabric.device)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        labels = torch.from_numpy(batch.labels).to(self.fabric.device)
        masks, known = (each.to(self.fabric.device) for each in _stack_masks(batch))
        losses, norm = self._differentiate(StepInputs(inputs, labels, masks, known), epoch, steps)
        report = StepReport(epoch, self.step, steps, losses, rate, norm)
        scaled = self.config.precision == "float16"  # there the scaler skips a step whose gradient is not finite
        if not np.isfinite(losses["total"]) or not (scaled or np.isfinite(norm)):
            raise Diverged(report, batch, inputs)
        self.optimizer.step()
        self._update_average()
        self._sums.append(losses)
        self.step += 1
        return report

    def _differentiate(self, inputs: StepInputs, epoch: int, steps: int) -> tuple[Means, float]:
        """Compute the gradient of the step, clipped; returns the losses of the weights as they are, and the norm before clipping.

        The norm is NaN if a loss is not finite.
        """
        passes: list[Means] = []

        def run_pass() -> None:
            passes.append(self._accumulate(inputs, epoch, steps))

        groups = [group["params"] for group in self.optimizer.param_groups if group["lr_factor"] > 0]
        if self.config.optimization.sam:
            take_sharp_gradient(run_pass, self.step_module, chain(*groups), self.config.optimization.sam)
        else:
            run_pass()
        is_finite = all(np.isfinite(losses["total"]) for losses in passes)
        return passes[0], self._clip() if is_finite else float("nan")

    def _accumulate(self, inputs: StepInputs, epoch: int, steps: int) -> Means:
        """Accumulate the gradients of the batch part by part; returns the mean losses over parts and processes."""
        seed = _seed_of(self.config.seed, epoch, self.step)
        torch.manual_seed(seed + self.fabric.global_rank)  # dropout, drop path, noise: each process its own
        generator = torch.Generator().manual_seed(seed)  # shared by all parts and processes of the batch
        self.optimizer.zero_grad(set_to_none=True)
        parts = self.config.optimization.accumulate
        sums: dict[str, list[Tensor]] = {}
        for number, part in enumerate(inputs.chunk(parts), start=1):
            with self.fabric.no_backward_sync(self._wrapped, enabled=number < parts):
                losses = self._take_losses(part, epoch, steps, generator)
                if bool(torch.isfinite(losses.total)) or self.fabric.world_size > 1:
                    self.fabric.backward(losses.total / parts)
            for name, value in losses._asdict().items():
                if value is not None:
                    sums.setdefault(name, []).append(value.detach().float())
        means = torch.stack([torch.stack(values).mean() for values in sums.values()])
        if self.fabric.world_size > 1:
            means = torch.as_tensor(self.fabric.all_reduce(means, reduce_op="mean"))
        return dict(zip(sums, means.tolist(), strict=True))

    def _take_losses(self, part: StepInputs, epoch: int, steps: int, generator: torch.Generator) -> StepLosses:
        losses: StepLosses
        if isinstance(self.step_module, MultiTaskStep):
            ramp_epochs = self.config.dense.ramp_epochs
            ramp = min(1.0, (epoch + (self.step + 1) / steps) / ramp_epochs) if ramp_epochs else 1.0
            losses = self._wrapped(part.images, part.labels, part.masks, part.known, ramp=ramp)
            return losses
        losses = self._wrapped(
            part.images,
            part.labels,
            self.phase_of(epoch),
            augments=self.augments(epoch),
            generator=generator,
            parts=self.config.optimization.accumulate,
            rank=self.fabric.global_rank,
            world_size=self.fabric.world_size,
        )
        return losses

    def _clip(self) -> float:
        """Clip the gradient to `clip_norm` if set; returns its norm before clipping."""
        largest = self.config.optimization.clip_norm or float("inf")
        norm = self.fabric.clip_gradients(self._wrapped, self.optimizer, max_norm=largest, error_if_nonfinite=False)
        return float(norm)  # type: ignore[arg-type]

    def _set_rate(self, epoch: int, steps_per_epoch: int) -> float:
        optimization, phase = self.config.optimization, self.phase_of(epoch)
        first = 0 if phase == "backbone" else self._backbone_epochs
        factor = learning_rate_factor(
            (epoch - first) * steps_per_epoch + self.step,
            steps_per_epoch=steps_per_epoch,
            epochs=self._backbone_epochs if phase == "backbone" else self.config.epochs - first,
            config=optimization,
        )
        set_learning_rate(self.optimizer, optimization.learning_rate * factor)
        return optimization.learning_rate * factor

    def _open_phase(self, phase: Phase) -> None:
        """Create a new optimiser for a new phase: the schedule restarts, and moments of other losses would be misleading."""
        if getattr(self, "_phase", None) == phase:
            return
        self._phase: Phase = phase
        if isinstance(self.network, BackboneClassifier):
            backbone, rest = list(self.network.parameters()), []
        else:
            backbone = list(self.network.backbone.parameters())
            known = {id(parameter) for parameter in backbone}
            rest = [each for each in self.step_module.parameters() if id(each) not in known]
        optimizer = make_optimizer(backbone, rest if phase == "network" else [], self.config.optimization)
        self.optimizer: Any = self.fabric.setup_optimizers(optimizer)

    def _set_training(self, epoch: int) -> None:
        self._wrapped.train()
        for parameter in self._freezable:
            parameter.requires_grad_(not self.freezes_backbone(epoch))
        if self.config.optimization.freeze_batch_norm:
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    @torch.no_grad()
    def _update_average(self) -> None:
        if self.average is self.network:
            return
        decay = self.config.optimization.ema_decay
        for mean, now in zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(now, 1 - decay)
            else:
                mean.copy_(now)

    def _close_epoch(self, validation: FaceImages) -> None:
        epoch = self.finished_epochs
        if self.phase_of(epoch) == "network" and isinstance(self.step_module, TrainingStep):
            self.step_module.end_epoch()
        self.rows.append(self._make_row(validation))
        self.finished_epochs, self.step, self._sums = epoch + 1, 0, []

    def _make_row(self, validation: FaceImages) -> EpochRow:
        phase = self.phase_of(self.finished_epochs)
        # the first process's statistics and averages count
        scores = on_first_process(self.fabric, lambda: self.validate(validation, phase))
        earlier = [row.val_auc for row in self.rows if row.phase == phase]
        losses = {name: _mean(name, self._sums) for name in StepLosses._fields}
        return EpochRow(
            epoch=self.finished_epochs + 1,
            phase=phase,
            learning_rate=self.optimizer.param_groups[-1]["lr"],
            train_loss=losses["total"] or 0.0,
            train_ce=losses["ce"] or 0.0,
            train_ce_augmented=losses["ce_augmented"],
            train_auxiliary=losses["auxiliary"],
            train_match=losses["match"],
            val_auc=scores.auc,
            val_log_loss=scores.log_loss,
            val_videos=scores.videos,
            attention_cosine=scores.attention_cosine,
            images=len(self._sums) * self.config.optimization.batch_size,
            is_best=all(scores.auc > value for value in earlier),
            train_attention=losses["attention"],
            train_mask=losses["mask"],
            train_consistency=losses["consistency"],
        )

    def validate(self, images: FaceImages, phase: Phase = "network") -> ValidationScores:
        """Scores of the averaged weights on the validation videos."""
        return validate(self.average, images, phase, self.fabric.device)

    def state_dict(self) -> dict[str, Any]:
        """The complete state that the next step depends on."""
        return {
            "step_module": self.step_module.state_dict(),
            "average": self.average.state_dict() if self.average is not self.network else None,
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "rows": [vars(row) for row in self.rows],
            "step": self.step,
            "sums": self._sums,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        self.rows = [EpochRow(**row) for row in state["rows"]]
        self.finished_epochs, self.step = len(self.rows), state["step"]
        self._sums = list(state["sums"])
        self.step_module.load_state_dict(state["step_module"])
        if state["average"] is not None:
            self.average.load_state_dict(state["average"])
        begun = self.finished_epochs if self.step else self.finished_epochs - 1  # the epoch whose optimiser was saved
        self._open_phase(self.phase_of(max(0, begun)))
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])


def _list_freezable(network: Network) -> list[nn.Parameter]:
    """The backbone's weights; of a plain classifier, all but the last layer's."""
    if not isinstance(network, BackboneClassifier):
        return [parameter for parameter in network.backbone.parameters() if parameter.requires_grad]
    last = {id(parameter) for parameter in network.net.get_classifier().parameters()}
    return [each for each in network.parameters() if each.requires_grad and id(each) not in last]


class _Clock:
    """Measures how the time of an epoch is spent."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.waited = 0.0
        self.batches = 0
        self.seconds = self.images_per_second = self.loader_share = 0.0

    def waiting_for(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        while True:
            before = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - before
            if batch is None:
                return
            self.batches += 1
            yield batch

    def stop(self, *, faces: int) -> None:
        self.seconds = time.perf_counter() - self.started
        self.images_per_second = self.batches * faces / self.seconds
        self.loader_share = self.waited / self.seconds


def _mean(name: str, sums: Sequence[Means]) -> float | None:
    known = [each[name] for each in sums if name in each]
    return float(np.mean(known)) if known else None


def _seed_of(seed: int, epoch: int, step: int) -> int:
    """A seed that differs widely between neighbouring steps and is the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{epoch}:{step}".encode()).digest()[:7], "little")
