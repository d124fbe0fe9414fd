"""RetinaFace on batches of pictures: pre-processing, network, decoding and non-maximum suppression."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchvision.ops import batched_nms

from pipelines.checkpoints.weights_files import WeightsFile, read_state, resolve_weights
from pipelines.config import Precision
from pipelines.errors import CheckpointError
from pipelines.faces.anchors import anchors_for, decode_boxes, decode_landmarks
from pipelines.faces.retinaface import INPUT_NORMS, NetworkName, build_retinaface
from pipelines.models.batch_norm_fusion import try_fold

NMS_IOU = 0.4
MAX_CANDIDATES = 2000
"""Most anchors per picture that reach suppression, best first; a picture of real faces has far fewer."""
EXAMPLE_SIZE_PX = (64, 64)
SMALLEST_FACE_PX = 32
"""Side of a face at the network's input at which both networks find nearly all; see the detector's model card."""
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Faces:
    """The faces of one picture, best score first, in pixels of that picture."""

    boxes: npt.NDArray[np.float64]
    """(F, 4) x0 y0 x1 y1, inside the picture."""
    scores: npt.NDArray[np.float64]
    """(F,) in 0..1."""
    landmarks: npt.NDArray[np.float64]
    """(F, 5, 2): left eye, right eye, nose, left and right mouth corner, left in the image."""

    def __len__(self) -> int:
        return len(self.scores)


class FaceDetector:
    """A RetinaFace network with its pre- and post-processing.

    Pictures whose long side exceeds `max_side` are reduced to it for the network, never enlarged. With `min_face_px`, smaller
    faces are left out, and pictures are reduced further, until a face of that size is `SMALLEST_FACE_PX` wide.
    """

    def __init__(
        self,
        network: nn.Module,
        name: NetworkName,
        *,
        sha256: str = "",
        max_side: int = 960,
        min_score: float = 0.8,
        min_face_px: int = 0,
        device: torch.device | str = "cpu",
        batch_size: int = 8,
        precision: Precision = "float32",
    ) -> None:
        self.device = torch.device(device)
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.network = network.eval().to(self.device, self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.norm = INPUT_NORMS[name]
        self.sha256 = sha256
        self.max_side = max_side
        self.min_score = min_score
        self.min_face_px = min_face_px
        self.batch_size = batch_size

    def detect(self, images: Sequence[Image]) -> list[Faces]:
        """Faces of each picture (H, W, 3) uint8 RGB, in the given order; sizes may differ."""
        found: list[Faces] = []
        for _, group in groupby(images, key=lambda image: image.shape):
            for batch in _in_batches(list(group), self.batch_size):
                found += self._detect_batch(batch)
        return found

    @torch.inference_mode()
    def _detect_batch(self, images: Sequence[Image]) -> list[Faces]:
        height_px, width_px = images[0].shape[:2]
        scale = min(1.0, self.max_side / max(height_px, width_px))
        if self.min_face_px:
            scale = min(scale, SMALLEST_FACE_PX / self.min_face_px)
        size = max(1, round(width_px * scale)), max(1, round(height_px * scale))
        inputs = self._prepare([_resize(image, size) for image in images])
        regressions, logits, landmark_regressions = self.network(inputs)
        anchors = anchors_for(size[1], size[0]).to(self.device)
        picture, boxes, scores, landmarks = select_faces(
            regressions, logits, landmark_regressions, anchors, min_score=self.min_score
        )
        to_image = np.array([width_px / size[0], height_px / size[1]])
        limits = np.array([width_px, height_px] * 2)
        return [
            _drop_unwanted(
                Faces(
                    boxes=np.clip(_to_numpy(boxes[picture == i]) * np.tile(to_image, 2), 0, limits),
                    scores=_to_numpy(scores[picture == i]),
                    landmarks=_to_numpy(landmarks[picture == i]) * to_image,
                ),
                self.min_face_px,
            )
            for i in range(len(images))
        ]

    def _prepare(self, images: Sequence[Image]) -> Tensor:
        batch = torch.from_numpy(np.stack(images)).to(self.device)
        if self.norm.color_order == "bgr":
            batch = batch.flip(-1)
        mean = torch.tensor(self.norm.mean, device=self.device)
        std = torch.tensor(self.norm.std, device=self.device)
        normalised = batch.float().sub_(mean).div_(std).to(self.dtype)
        return normalised.permute(0, 3, 1, 2)  # NHWC memory seen as NCHW: channels-last for free


def select_faces(
    regressions: Tensor, logits: Tensor, landmark_regressions: Tensor, anchors: Tensor, *, min_score: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """From the network's three outputs to faces, for N pictures at once.

    Only anchors above `min_score` are decoded; overlaps above IoU 0.4 within a picture are suppressed.

    Returns:
        Index of the picture (F,), boxes (F, 4), scores (F,) and landmarks (F, 5, 2) in pixels of the network's input,
        best score first.
    """
    scores = logits.float().softmax(dim=-1)[..., 1]
    if scores.shape[1] > MAX_CANDIDATES:
        cut = scores.topk(MAX_CANDIDATES, dim=1).values[:, -1:]
        keep = (scores > min_score) & (scores >= cut)
    else:
        keep = scores > min_score
    picture, anchor = keep.nonzero(as_tuple=True)
    boxes = decode_boxes(regressions[picture, anchor].float(), anchors[anchor])
    # batched_nms moves pictures apart by the largest coordinate: one absurd box would cost all of them their precision
    reach = 2 * float(anchors[:, :2].max())
    boxes = boxes.clamp(-reach, 2 * reach)
    chosen = batched_nms(boxes, scores[picture, anchor], picture, NMS_IOU)
    picture, anchor = picture[chosen], anchor[chosen]
    landmarks = decode_landmarks(landmark_regressions[picture, anchor].float(), anchors[anchor])
    return picture, boxes[chosen], scores[picture, anchor], landmarks


def load_detector(
    name_or_file: str | WeightsFile,
    *,
    max_side: int = 960,
    min_score: float = 0.8,
    min_face_px: int = 0,
    device: torch.device | str = "cpu",
    batch_size: int = 8,
    precision: Precision = "float32",
) -> FaceDetector:
    """A detector, its batch norms folded, from a registry name or a weights file.

    A file is safetensors, or a PyTorch file without pickled code.

    Raises:
        CheckpointError: the file is missing, damaged or not a RetinaFace detector.
    """
    weights = resolve_weights(name_or_file, kind="detector")
    state = read_state(weights.path)
    network_name = _network_in(state)
    if network_name is None:
        raise CheckpointError(
            f"{weights.path} is not a RetinaFace detector; pass a detector's weights, or a name listed by: deepfake weights list"
        )
    network = build_retinaface(network_name)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{weights.path} does not fit RetinaFace {network_name}: {error}") from error
    noise = torch.rand(1, 3, *EXAMPLE_SIZE_PX, generator=torch.Generator().manual_seed(0)) * 255 - 110
    network = try_fold(network.eval(), noise)
    return FaceDetector(
        network,
        network_name,
        sha256=weights.sha256,
        max_side=max_side,
        min_score=min_score,
        min_face_px=min_face_px,
        device=device,
        batch_size=batch_size,
        precision=precision,
    )


def _network_in(state: dict[str, Tensor]) -> NetworkName | None:
    if "ClassHead.0.conv1x1.weight" not in state:
        return None
    return "mobilenet0.25" if "body.stage1.0.0.weight" in state else "resnet50"


def _drop_unwanted(faces: Faces, min_face_px: int) -> Faces:
    """Without the faces that lie outside the picture, or whose shorter side inside it is under `min_face_px`."""
    sides = (faces.boxes[:, 2:] - faces.boxes[:, :2]).min(axis=1)
    wanted = (sides > 0) & (sides >= min_face_px)
    return Faces(faces.boxes[wanted], faces.scores[wanted], faces.landmarks[wanted])


def _resize(image: Image, size: tuple[int, int]) -> Image:
    if (image.shape[1], image.shape[0]) == size:
        return image
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _to_numpy(values: Tensor) -> npt.NDArray[np.float64]:
    return values.cpu().double().numpy()  # MPS has no float64


def _in_batches(images: Sequence[Image], size: int) -> Iterator[Sequence[Image]]:
    for start in range(0, len(images), size):
        yield images[start : start + size]
