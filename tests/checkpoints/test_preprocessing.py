"""The preprocessing contract travels whole, refuses what it can not keep, and does what it says."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines.checkpoints.preprocessing import Preprocessing, cut_input, resize_square, to_network_input
from pipelines.errors import CheckpointError, ConfigError

CONTRACT = Preprocessing(
    margin=1.3,
    crop_box=(10, 20, 330, 340),
    input_size=160,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    detector="some-detector",
    detector_sha256="ab" * 32,
    max_side=640,
    min_score=0.6,
    frames=7,
    aggregate="mean",
    threshold=0.25,
)
FIELDS = [field.name for field in fields(Preprocessing)]


def test_a_contract_survives_json() -> None:
    assert Preprocessing.from_json(json.loads(json.dumps(CONTRACT.to_json()))) == CONTRACT
    assert Preprocessing.from_json(json.loads(json.dumps(Preprocessing().to_json()))) == Preprocessing()


def test_a_contract_with_removed_features_is_read_unless_it_uses_them() -> None:
    older = {**CONTRACT.to_json(), "mirrored": False}
    assert Preprocessing.from_json(older) == CONTRACT
    with pytest.raises(CheckpointError, match="mirrored scoring, which this version of deepfake no longer has; train"):
        Preprocessing.from_json({**older, "mirrored": True})
    with pytest.raises(CheckpointError, match="aggregate confident, which this version of deepfake no longer has"):
        Preprocessing.from_json({**older, "aggregate": "confident"})


@pytest.mark.parametrize("name", FIELDS)
def test_a_missing_field_is_named(name: str) -> None:
    value = CONTRACT.to_json()
    del value[name]
    with pytest.raises(CheckpointError, match=f"missing or unknown field: {name}"):
        Preprocessing.from_json(value)


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(CheckpointError, match="missing or unknown field: sharpness"):
        Preprocessing.from_json({**CONTRACT.to_json(), "sharpness": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"template": "arcface-112"}, "template is arcface-112, this version of deepfake uses wm-380"),
        ({"aligned_size": 400}, "aligned_size is 400, this version of deepfake uses 380"),
        ({"interpolation": "cubic"}, "interpolation is cubic"),
        ({"color_order": "bgr"}, "color_order is bgr"),
        ({"class_names": ["fake", "real"]}, "class_names is .*fake.*real"),
        ({"crop_box": [0, 0, 381, 380]}, "crop_box must be a square x0 y0 x1 y1 inside 0..380"),
        ({"crop_box": [0, 0, 380]}, "crop_box must be a square x0 y0 x1 y1"),
        ({"crop_box": [50, 0, 200, 380]}, "crop_box must be a square x0 y0 x1 y1"),
    ],
)
def test_what_this_program_would_do_otherwise_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        Preprocessing.from_json({**CONTRACT.to_json(), **change})


def test_a_crop_box_outside_the_aligned_frame_is_refused() -> None:
    with pytest.raises(ConfigError, match="crop_box must be"):
        replace(CONTRACT, crop_box=(-1, 0, 380, 380))


def test_an_input_is_the_crop_box_averaged_over_blocks() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (380, 380, 3), dtype=np.uint8)
    contract = replace(CONTRACT, crop_box=(10, 20, 330, 340), input_size=80)
    blocks = crop[20:340, 10:330].reshape(80, 4, 80, 4, 3).mean(axis=(1, 3))
    got = cut_input(crop, contract)
    assert got.shape == (80, 80, 3) and got.dtype == np.uint8
    assert np.abs(got - blocks).max() <= 0.5 + 1e-6


def test_an_input_of_the_box_s_own_size_is_cut_and_not_resampled() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (380, 380, 3), dtype=np.uint8)
    got = cut_input(crop, replace(CONTRACT, crop_box=(10, 20, 170, 180), input_size=160))
    assert np.array_equal(got, crop[20:180, 10:170]) and got.flags.c_contiguous


def test_enlarging_is_bilinear() -> None:
    ramp = np.repeat(np.array([[0, 100, 200, 100]], dtype=np.uint8).T, 4, axis=1)[..., None].repeat(3, axis=2)
    got = resize_square(ramp, 8)[:, 3, 1]
    assert got.tolist() == [0, 25, 75, 125, 175, 175, 125, 100]


def test_an_image_with_one_side_too_short_is_enlarged_bilinearly() -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 12, 3), dtype=np.uint8)
    for oblong in (image, image.transpose(1, 0, 2)):
        bilinear = cv2.resize(oblong, (8, 8), interpolation=cv2.INTER_LINEAR)
        assert np.array_equal(resize_square(oblong, 8), bilinear)
        assert not np.array_equal(bilinear, cv2.resize(oblong, (8, 8), interpolation=cv2.INTER_AREA))


def test_a_batch_is_normalised_by_the_contract() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3), dtype=np.uint8)
    before = images.copy()
    batch = to_network_input(list(images), CONTRACT)
    expected = (images / 255 - np.array(CONTRACT.mean)) / np.array(CONTRACT.std)
    np.testing.assert_allclose(batch.numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)
    assert str(batch.dtype) == "torch.float32" and batch.stride(1) == 1, "channels-last memory"
    assert np.array_equal(images, before)


def test_the_default_contract_maps_black_and_white_to_minus_and_plus_one() -> None:
    images = [np.full((2, 2, 3), value, dtype=np.uint8) for value in (0, 255)]
    batch = to_network_input(images, Preprocessing())
    assert (batch[0] == -1).all() and (batch[1] == 1).all()
