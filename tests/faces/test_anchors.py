"""Anchors and decoding agree with the original implementation of RetinaFace."""

from __future__ import annotations

import pytest
import torch
from retinaface.box_utils import decode, decode_landm
from retinaface.prior_box import priorbox
from torch import Tensor

from pipelines.faces.anchors import anchors_for, decode_boxes, decode_landmarks
from pipelines.faces.retinaface import MobileNetRetinaFace
from tests.networks import random_images

SIZES = [(64, 64), (320, 320), (65, 97), (1, 1), (33, 250), (127, 8), (180, 319)]
VARIANCES = [0.1, 0.2]


def _original_anchors(height: int, width: int) -> Tensor:
    """Centre and size in shares of the picture, by the original."""
    anchors: Tensor = priorbox(
        min_sizes=[[16, 32], [64, 128], [256, 512]], steps=[8, 16, 32], clip=False, image_size=(height, width)
    )
    return anchors


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 2


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_anchors_are_those_of_the_original(height: int, width: int) -> None:
    expected = _original_anchors(height, width) * torch.tensor([width, height, width, height])
    torch.testing.assert_close(anchors_for(height, width), expected, atol=1e-3, rtol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 97), (33, 127), (100, 31)])
def test_the_network_has_one_row_per_anchor_at_any_size(height: int, width: int) -> None:
    network = MobileNetRetinaFace().eval()
    with torch.inference_mode():
        outputs = network(random_images(1, 128)[:, :, :height, :width])
    count = len(anchors_for(height, width))
    assert [tuple(output.shape) for output in outputs] == [(1, count, 4), (1, count, 2), (1, count, 10)]


def test_the_anchors_of_one_cell_are_centred_in_it_and_follow_each_other() -> None:
    anchors = anchors_for(32, 64)
    assert anchors[:4].tolist() == [[4, 4, 16, 16], [4, 4, 32, 32], [12, 4, 16, 16], [12, 4, 32, 32]]
    assert anchors[2 * 8].tolist() == [4, 12, 16, 16], "rows follow columns"
    assert anchors[2 * 32].tolist() == [8, 8, 64, 64]
    assert anchors[-1].tolist() == [48, 16, 512, 512]


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 97)])
def test_boxes_are_decoded_as_by_the_original(height: int, width: int) -> None:
    original, scale = _original_anchors(height, width), torch.tensor([width, height] * 2)
    regression = _random(len(original), 4)
    expected = decode(regression, original, VARIANCES) * scale
    torch.testing.assert_close(decode_boxes(regression, anchors_for(height, width)), expected, atol=1e-2, rtol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 97)])
def test_landmarks_are_decoded_as_by_the_original(height: int, width: int) -> None:
    original, scale = _original_anchors(height, width), torch.tensor([width, height] * 5)
    regression = _random(len(original), 10)
    expected = (decode_landm(regression, original, VARIANCES) * scale).reshape(-1, 5, 2)
    torch.testing.assert_close(decode_landmarks(regression, anchors_for(height, width)), expected, atol=1e-2, rtol=1e-5)


def test_batches_decode_like_single_pictures() -> None:
    anchors = anchors_for(64, 64)
    boxes, landmarks = _random(3, len(anchors), 4), _random(3, len(anchors), 10)
    assert torch.equal(decode_boxes(boxes, anchors)[1], decode_boxes(boxes[1], anchors))
    assert torch.equal(decode_landmarks(landmarks, anchors)[1], decode_landmarks(landmarks[1], anchors))


def test_a_zero_regression_is_the_anchor_itself() -> None:
    anchors = torch.tensor([[20.0, 30.0, 16.0, 16.0]])
    assert decode_boxes(torch.zeros(1, 4), anchors).tolist() == [[12, 22, 28, 38]]
    assert decode_landmarks(torch.zeros(1, 10), anchors).tolist() == [[[20, 30]] * 5]


def test_anchors_first_asked_for_in_inference_serve_training_too() -> None:
    with torch.inference_mode():
        anchors_for(72, 40)
    anchors = anchors_for(72, 40)
    regression = torch.zeros(len(anchors), 4, requires_grad=True)
    (grad,) = torch.autograd.grad(decode_boxes(regression, anchors).square().sum(), [regression])
    assert grad.any()
