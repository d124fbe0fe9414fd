"""The detector finds what the original RetinaFace implementation finds, for any number, size and order of pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from retinaface.box_utils import decode, decode_landm
from retinaface.prior_box import priorbox
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck
from torchvision.ops import nms

from pipelines.errors import CheckpointError
from pipelines.faces.anchors import anchors_for
from pipelines.faces.detector import MAX_CANDIDATES, FaceDetector, Faces, load_detector, select_faces
from pipelines.faces.retinaface import NetworkName, build_retinaface
from tests.networks import settle, shared_file

pytestmark = [
    pytest.mark.filterwarnings("ignore:The parameter 'pretrained' is deprecated"),
    pytest.mark.filterwarnings("ignore:Arguments other than a weight enum"),
]
Image = npt.NDArray[np.uint8]
VARIANCES = [0.1, 0.2]
IMAGENET_MEAN, IMAGENET_STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
BGR_MEAN = np.array([104.0, 117.0, 123.0])
SHARE_OF_FACES = 0.03
"""Of the anchors of a network with random weights, about this many have a score above 0.62."""


def _picture(height: int, width: int, seed: int = 0) -> Image:
    """Blocks of random colours: structure at several scales."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (-(-height // 32), -(-width // 32), 3)).repeat(32, axis=0).repeat(32, axis=1)
    fine = rng.integers(0, 256, (-(-height // 8), -(-width // 8), 3)).repeat(8, axis=0).repeat(8, axis=1)
    return ((coarse[:height, :width] + fine[:height, :width]) // 2).astype(np.uint8)


def _normalise(pictures: Sequence[Image], name: NetworkName) -> Tensor:
    """The network's input (N, 3, H, W), as the original implementations make it."""
    rgb = np.stack(pictures).astype(np.float64)
    values = (rgb - IMAGENET_MEAN) / IMAGENET_STD if name == "resnet50" else rgb[..., ::-1] - BGR_MEAN
    return torch.from_numpy(values.transpose(0, 3, 1, 2).copy()).float()


def _spread(name: NetworkName) -> Any:
    """A network with random weights whose outputs vary enough that some anchors pass and many do not."""
    torch.manual_seed(0)
    network: Any = build_retinaface(name)
    for block in network.modules():
        # A deep random network is chaotic: it would magnify the last bit of its input.
        if isinstance(block, Bottleneck):
            nn.init.constant_(block.bn3.weight, 0.1)
    images = _normalise([_picture(128, 128, seed) for seed in range(50, 54)], name)
    settle(network, lambda: network(images))
    rows_per_level = [2 * (128 // stride) ** 2 for stride in (8, 16, 32)]
    with torch.no_grad():
        outputs = [output.split(rows_per_level, dim=1) for output in network(images)]
        for level in range(3):
            boxes, logits, landmarks = (output[level] for output in outputs)
            network.BboxHead[level].conv1x1.weight.div_(boxes.std())
            network.LandmarkHead[level].conv1x1.weight.div_(landmarks.std() / 2)
            scale = 0.7 / logits.diff().std()
            network.ClassHead[level].conv1x1.weight.mul_(scale)
            rare = float((logits.diff() * scale).quantile(1 - SHARE_OF_FACES))
            network.ClassHead[level].conv1x1.bias.copy_(torch.tensor([rare, 0.5] * 2))
    return network


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    network: nn.Module = _spread("resnet50")
    return network


@pytest.fixture(scope="module")
def mobilenet() -> nn.Module:
    network: nn.Module = _spread("mobilenet0.25")
    return network


def _original_faces(network: nn.Module, image: Image, min_score: float) -> Faces:
    """The original's post-processing in pixels of the picture, which is the network's input as it is."""
    height, width = image.shape[:2]
    with torch.no_grad():
        boxes, logits, landmarks = network(_normalise([image], "resnet50"))
    anchors = priorbox(
        min_sizes=[[16, 32], [64, 128], [256, 512]], steps=[8, 16, 32], clip=False, image_size=(height, width)
    )
    scores = F.softmax(logits, dim=-1)[0, :, 1]
    passed = torch.where(scores > min_score)[0]
    order = passed[scores[passed].argsort(descending=True)]
    decoded = decode(boxes[0], anchors, VARIANCES)[order] * torch.tensor([width, height] * 2)
    kept = nms(decoded, scores[order], 0.4)
    points = decode_landm(landmarks[0], anchors, VARIANCES)[order] * torch.tensor([width, height] * 5)
    return Faces(
        decoded[kept].double().numpy(),
        scores[order][kept].double().numpy(),
        points[kept].reshape(-1, 5, 2).double().numpy(),
    )


@pytest.mark.parametrize(("height", "width"), [(160, 224), (131, 203)])
def test_faces_are_those_of_the_original_post_processing(resnet: nn.Module, height: int, width: int) -> None:
    image = _picture(height, width)
    expected = _original_faces(resnet, image, 0.6)
    (found,) = FaceDetector(resnet, "resnet50", min_score=0.6).detect([image])
    assert 5 < len(expected) < len(anchors_for(height, width)) / 4
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(found.landmarks, expected.landmarks, atol=0.01)
    np.testing.assert_allclose(found.boxes, np.clip(expected.boxes, 0, [width, height] * 2), atol=0.01)


class Coarse(nn.Module):
    """A network behind rounded inputs.

    The original pads with zeros after normalising: the mean colour, which no 8-bit picture holds exactly. Random
    weights answer even that difference with other faces, so it is rounded away for both.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        return self.network((images * 20).round() / 20)


@pytest.fixture(scope="module")
def original(resnet: nn.Module) -> Any:
    """The original's own predictor of 320 x 320 inputs with the same weights."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would ask the network for a newer version
    from retinaface.predict_single import Model

    model = Model(max_size=320)
    model.load_state_dict(resnet.state_dict())
    model.eval()
    model.model = Coarse(model.model)
    return model


@pytest.mark.parametrize(
    ("height", "width", "factor"),
    [(320, 320, 1), (200, 320, 1), (320, 251, 1), (200, 320, 2)],
    ids=["square", "wide", "high", "twice as large"],
)
def test_faces_are_those_of_the_original_predictor(
    resnet: nn.Module, original: Any, height: int, width: int, factor: int
) -> None:
    """The original pads the picture to a square, evenly on both sides, with the mean colour; so does this test.

    It cuts coordinates to whole pixels before it scales them back: they may differ by one pixel of the network's input.
    """
    image = _picture(height, width, seed=3).repeat(factor, axis=0).repeat(factor, axis=1)
    height, width = image.shape[:2]
    expected = original.predict_jsons(image, confidence_threshold=0.6)
    top, left = (320 - height // factor) // 2 * factor, (320 - width // factor) // 2 * factor
    padded = np.empty((320 * factor, 320 * factor, 3), dtype=np.uint8)
    padded[:] = IMAGENET_MEAN.round()
    padded[top : top + height, left : left + width] = image
    (found,) = FaceDetector(Coarse(resnet), "resnet50", min_score=0.6, max_side=320).detect([padded])

    assert len(expected) > 30
    assert np.abs(found.scores - 0.6).min() > 1e-5, "a score on the threshold would fall on either side"
    boxes, landmarks = found.boxes - [left, top] * 2, found.landmarks - [left, top]
    limits = np.array([[-left, -top] * 2, [320 * factor - left, 320 * factor - top] * 2])
    taken = set()
    for face in expected:
        off_boxes = np.abs(boxes - np.clip(face["bbox"], *limits)).max(axis=1)
        off = np.maximum(off_boxes, np.abs(landmarks - face["landmarks"]).max(axis=(1, 2)))
        nearest = int(off.argmin())
        taken.add(nearest)
        assert off[nearest] <= factor + 1  # cut to pixels of the input, scaled back, and cut once more
        assert found.scores[nearest] == pytest.approx(face["score"], abs=1e-3)
    assert len(taken) == len(expected)
    width_inside, height_inside = (boxes[:, 2:].clip(0, [width, height]) - boxes[:, :2].clip(0, [width, height])).T
    in_picture = np.flatnonzero((width_inside > factor + 1) & (height_inside > factor + 1))
    assert set(in_picture) <= taken, "the original leaves out only what lies in its padding"


@pytest.mark.parametrize("batch_size", [2, 5, 8])
def test_pictures_in_batches_are_detected_as_one_at_a_time(mobilenet: nn.Module, batch_size: int) -> None:
    pictures = [_picture(96, 160, seed) for seed in range(5)]
    detector = FaceDetector(mobilenet, "mobilenet0.25", min_score=0.6, batch_size=batch_size)
    together, alone = detector.detect(pictures), [detector.detect([picture])[0] for picture in pictures]
    assert min(map(len, alone)) > 3 and len({len(faces) for faces in alone}) > 1
    for got, want in zip(together, alone, strict=True):
        _assert_same_faces(got, want)


def test_pictures_of_mixed_sizes_keep_their_order(mobilenet: nn.Module) -> None:
    sizes = [(96, 160), (96, 160), (64, 64), (96, 160), (160, 96), (64, 64), (64, 64)]
    pictures = [_picture(height, width, seed) for seed, (height, width) in enumerate(sizes)]
    detector = FaceDetector(mobilenet, "mobilenet0.25", min_score=0.6, batch_size=2)
    found = detector.detect(pictures)
    assert len(found) == len(pictures)
    for got, picture in zip(found, pictures, strict=True):
        _assert_same_faces(got, detector.detect([picture])[0])


def _assert_same_faces(got: Faces, want: Faces) -> None:
    assert len(got) == len(want)
    for name in ("boxes", "scores", "landmarks"):
        np.testing.assert_allclose(getattr(got, name), getattr(want, name), atol=1e-2)


class BrightCells(nn.Module):
    """Stands in for a trained network: every stride-8 cell that is bright throughout is a face of the smaller anchor.

    Enough where the way to and from the network is tested, because the answer is known in pixels.
    """

    def __init__(self, brightness: float = 100.0) -> None:
        super().__init__()
        self.brightness = brightness
        self.inputs: list[Tensor] = []

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.inputs.append(images)
        count, (height, width) = len(images), images.shape[-2:]
        anchors = len(anchors_for(height, width))
        darkest = -F.max_pool2d(-images.amin(dim=1, keepdim=True), 8, ceil_mode=True).flatten(1)
        logits = torch.zeros(count, anchors, 2)
        logits[:, :, 0] = 10
        logits[:, : 2 * darkest.shape[1] : 2, 1] = torch.where(darkest > self.brightness, 15.0 + darkest / 100, -10.0)
        landmarks = torch.zeros(count, anchors, 10)
        landmarks[:, :] = torch.tensor([-3.0, -2, 3, -2, 0, 0, -2, 3, 2, 3])
        return torch.zeros(count, anchors, 4), logits, landmarks


def _bright_spots(height: int, width: int, *spots: tuple[int, int, int]) -> Image:
    """A black picture with white squares of (x0, y0, side)."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    for x0, y0, side in spots:
        image[y0 : y0 + side, x0 : x0 + side] = 255
    return image


def _detector(network: nn.Module, **options: int | float) -> FaceDetector:
    return FaceDetector(network, "mobilenet0.25", **options)  # type: ignore[arg-type]


def test_a_face_is_where_it_is_in_the_picture() -> None:
    (faces,) = _detector(BrightCells()).detect([_bright_spots(64, 96, (32, 16, 8))])
    assert faces.boxes.tolist() == [[28, 12, 44, 28]]
    offsets = 1.6 * np.array([(-3, -2), (3, -2), (0, 0), (-2, 3), (2, 3)])
    np.testing.assert_allclose(faces.landmarks, [np.array([36, 20]) + offsets], atol=1e-4)
    assert 0.99 < faces.scores[0] <= 1


@pytest.mark.parametrize(("min_face_px", "expected"), [(0, 96), (32, 96), (64, 96), (128, 48), (256, 24)])
def test_the_network_sees_no_more_than_the_smallest_wanted_face_needs(min_face_px: int, expected: int) -> None:
    network = BrightCells()
    _detector(network, max_side=96, min_face_px=min_face_px).detect([np.zeros((96, 192, 3), dtype=np.uint8)])
    assert network.inputs[0].shape[-1] == expected


@pytest.mark.parametrize(("factor", "max_side"), [(2, 96), (3, 96), (5, 96), (2, 64)])
def test_a_large_picture_is_reduced_and_its_faces_are_scaled_back(factor: int, max_side: int) -> None:
    network = BrightCells()
    width = max_side * factor
    image = _bright_spots(width // 2, width, (32 * factor, 16 * factor, 8 * factor))
    (faces,) = _detector(network, max_side=max_side).detect([image])
    assert network.inputs[0].shape == (1, 3, max_side // 2, max_side)
    np.testing.assert_allclose(faces.boxes, np.array([[28, 12, 44, 28]]) * factor, atol=1e-3)
    np.testing.assert_allclose(faces.landmarks[0, 2], np.array([36, 20]) * factor, atol=1e-3)


def test_each_axis_is_scaled_back_by_its_own_factor() -> None:
    """501 x 333 at 100 becomes 100 x 66: 5.01 across and 5.045 down."""
    network = BrightCells(brightness=-1e9)
    (faces,) = _detector(network, max_side=100).detect([np.zeros((333, 501, 3), dtype=np.uint8)])
    assert network.inputs[0].shape == (1, 3, 66, 100)
    centers = sorted(map(tuple, faces.landmarks[:, 2].round(3).tolist()))
    expected = sorted(
        (round((x + 0.5) * 8 * 501 / 100, 3), round((y + 0.5) * 8 * 333 / 66, 3)) for x in range(13) for y in range(9)
    )
    assert centers and set(centers) <= set(expected)


def test_a_small_picture_is_never_enlarged() -> None:
    network = BrightCells()
    _detector(network, max_side=960).detect([_bright_spots(20, 30)])
    assert network.inputs[0].shape == (1, 3, 20, 30)


def test_a_very_long_picture_keeps_at_least_one_pixel_of_height() -> None:
    network = BrightCells()
    assert len(_detector(network, max_side=64).detect([_bright_spots(2, 1000)])[0]) == 0
    assert network.inputs[0].shape == (1, 3, 1, 64)


def test_boxes_end_at_the_picture_s_edge() -> None:
    (faces,) = _detector(BrightCells()).detect([_bright_spots(60, 90, (0, 0, 8), (88, 56, 8))])
    assert sorted(faces.boxes.tolist()) == [[0, 0, 12, 12], [84, 52, 90, 60]]


def test_a_picture_without_faces_has_an_empty_result() -> None:
    with_face, without = _bright_spots(64, 64, (8, 8, 8)), _bright_spots(64, 64)
    found = _detector(BrightCells()).detect([without, with_face, without])
    assert [len(faces) for faces in found] == [0, 1, 0]
    assert (found[0].boxes.shape, found[0].scores.shape, found[0].landmarks.shape) == ((0, 4), (0,), (0, 5, 2))
    assert _detector(BrightCells()).detect([]) == []


def test_batches_are_bounded() -> None:
    network = BrightCells()
    _detector(network, batch_size=3).detect([_bright_spots(32, 32)] * 8)
    assert [len(inputs) for inputs in network.inputs] == [3, 3, 2]


@pytest.mark.parametrize("name", ["mobilenet0.25", "resnet50"])
def test_each_network_gets_the_colours_it_was_trained_with(name: NetworkName) -> None:
    network, image = BrightCells(1e9), _picture(40, 56)
    before = image.copy()
    FaceDetector(network, name).detect([image])
    torch.testing.assert_close(network.inputs[0], _normalise([image], name), atol=1e-4, rtol=0)
    assert np.array_equal(image, before)


def _one_face_per_anchor(
    scores: Tensor, anchors: Tensor, min_score: float = 0.5
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Select among anchors with given scores (N, A) whose regressions are all zero."""
    logits = torch.stack([torch.zeros_like(scores), torch.logit(scores)], dim=-1)
    shape = scores.shape
    return select_faces(torch.zeros(*shape, 4), logits, torch.zeros(*shape, 10), anchors, min_score=min_score)


def test_of_two_overlapping_boxes_the_better_stays() -> None:
    # IoU of boxes 10 wide that are d apart: (10 - d) / (10 + d); 0.4 lies at d = 4.29
    anchors = torch.tensor([[20.0, 20, 10, 10], [24.0, 20, 10, 10], [29.0, 20, 10, 10], [90.0, 90, 10, 10]])
    _, boxes, scores, _ = _one_face_per_anchor(torch.tensor([[0.8, 0.9, 0.7, 0.6]]), anchors)
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.7, 0.6]))
    assert boxes[:, 0].tolist() == [19, 24, 85]


def test_faces_of_different_pictures_do_not_suppress_each_other() -> None:
    anchors = torch.tensor([[20.0, 20, 10, 10], [21.0, 20, 10, 10]])
    picture, boxes, scores, _ = _one_face_per_anchor(torch.tensor([[0.8, 0.1], [0.9, 0.85]]), anchors)
    assert picture.tolist() == [1, 0] and boxes[:, 0].tolist() == [15, 15]
    torch.testing.assert_close(scores, torch.tensor([0.9, 0.8]))


def test_a_score_has_to_be_above_the_minimum() -> None:
    anchors = torch.tensor([[20.0, 20, 10, 10], [60.0, 20, 10, 10], [90.0, 20, 10, 10]])
    _, _, scores, _ = _one_face_per_anchor(torch.tensor([[0.79, 0.81, 0.5]]), anchors, min_score=0.8)
    torch.testing.assert_close(scores, torch.tensor([0.81]))


def test_of_very_many_candidates_the_best_are_kept_in_each_picture() -> None:
    count = MAX_CANDIDATES + 500
    anchors = torch.tensor([[20.0 * i, 20.0, 10.0, 10.0] for i in range(count)])
    rising = torch.linspace(0.6, 0.99, count)
    picture, _, scores, _ = _one_face_per_anchor(torch.stack([rising, rising.flip(0) - 0.05]), anchors)
    for number, best in enumerate((rising, rising - 0.05)):
        kept = scores[picture == number]
        assert len(kept) == MAX_CANDIDATES
        torch.testing.assert_close(kept, best.flip(0)[:MAX_CANDIDATES], atol=1e-5, rtol=0)


def test_faces_come_best_first(mobilenet: nn.Module) -> None:
    detector = FaceDetector(mobilenet, "mobilenet0.25", min_score=0.6)
    for faces in detector.detect([_picture(96, 160, seed) for seed in range(3)]):
        assert len(faces) > 1 and (np.diff(faces.scores) <= 0).all()


def test_mobilenet_takes_the_official_file_strictly_and_has_its_size() -> None:
    detector = load_detector(str(shared_file("weights", "retinaface_mobilenet0.25_Final.pth")), min_score=0.5)
    assert sum(p.numel() for p in build_retinaface("mobilenet0.25").parameters()) == 426_608
    assert detector.norm.color_order == "bgr" and len(detector.sha256) == 64
    assert not detector.network.training
    assert len(detector.detect([np.full((64, 64, 3), 128, dtype=np.uint8)])[0]) == 0


def test_a_file_that_is_no_detector_is_refused(tmp_path: Any, mobilenet: nn.Module) -> None:
    foreign, cut = tmp_path / "foreign.pth", tmp_path / "cut.pth"
    torch.save({"weight": torch.zeros(1)}, foreign)
    state = mobilenet.state_dict()
    del state["fpn.output1.0.weight"]
    torch.save(state, cut)
    with pytest.raises(CheckpointError, match="is not a RetinaFace detector"):
        load_detector(str(foreign))
    with pytest.raises(CheckpointError, match=r"does not fit RetinaFace mobilenet0\.25"):
        load_detector(str(cut))


def test_weights_of_either_network_are_recognised(tmp_path: Any, mobilenet: nn.Module) -> None:
    path = tmp_path / "mobilenet.pth"
    torch.save({"state_dict": {f"module.{name}": value for name, value in mobilenet.state_dict().items()}}, path)
    picture = _picture(96, 160)
    (got,) = load_detector(str(path), min_score=0.6).detect([picture])
    (want,) = FaceDetector(mobilenet, "mobilenet0.25", min_score=0.6).detect([picture])
    assert len(want) > 3
    _assert_same_faces(got, want)
