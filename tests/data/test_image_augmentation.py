"""Each augmentation does what it says to the pixels, as often as it says, and nothing that its generator does not say."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pipelines.checkpoints.preprocessing import resize_square
from pipelines.data.image_augmentation import Operation, augment_image, operations_of, preview_augmentations
from pipelines.errors import ConfigError
from pipelines.system.image_files import SEPARATOR_PX

Image = npt.NDArray[np.uint8]
ROBUST = {operation.name: operation for operation in operations_of("robust")}
STRENGTHS = (0.0, 0.5, 1.0)
"""Of an operation's range: its low end, its middle, its high end."""


@pytest.fixture(scope="module")
def face(face_pictures: dict[str, list[Image]]) -> Image:
    return resize_square(face_pictures["real"][0][:150], 96)


def _apply(operation: Operation, image: Image, share: float, seed: int = 0) -> Image:
    """The operation alone, at a share of its range."""
    strength = operation.low + share * (operation.high - operation.low)
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    changed = operation.change(pixels, strength, np.random.default_rng(seed))
    assert changed.dtype == torch.uint8 and changed.shape == pixels.shape
    return changed.permute(1, 2, 0).numpy()


def _gradient_energy(image: Image) -> float:
    grey = image.astype(np.float64).mean(axis=2)
    return float((np.diff(grey, axis=0) ** 2).mean() + (np.diff(grey, axis=1) ** 2).mean())


def _difference(first: Image, second: Image) -> npt.NDArray[np.float64]:
    return np.abs(first.astype(np.float64) - second.astype(np.float64))


def _spread_of_colours(image: Image) -> float:
    return float(image.astype(np.float64).std(axis=2).mean())


@pytest.mark.parametrize("preset", ["none", "flip", "robust"])
@pytest.mark.parametrize("size", [8, 33, 96])
def test_an_augmented_image_has_the_shape_it_had(face: Image, preset: str, size: int) -> None:
    image = resize_square(face, size)
    before = image.copy()
    for seed in range(40):
        augmented = augment_image(image, preset, np.random.default_rng(seed))
        assert augmented.shape == (size, size, 3) and augmented.dtype == np.uint8 and augmented.flags.c_contiguous
    assert np.array_equal(image, before), "the argument must not be written to"


@pytest.mark.parametrize("preset", ["flip", "robust"])
def test_the_generator_makes_the_image(face: Image, preset: str) -> None:
    def draw(seeds: range) -> list[Image]:
        return [augment_image(face, preset, np.random.default_rng(seed)) for seed in seeds]

    torch.manual_seed(0)
    first = draw(range(60))
    torch.manual_seed(1)
    assert all(np.array_equal(a, b) for a, b in zip(first, draw(range(60)), strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(first, draw(range(60, 120)), strict=True))


def test_threads_side_by_side_make_the_same_images(face: Image) -> None:
    def draw(seed: int) -> Image:
        return augment_image(face, "robust", np.random.default_rng(seed))

    expected = [draw(seed) for seed in range(100)]
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(a, b) for a, b in zip(pool.map(draw, range(100)), expected, strict=True))


def test_torchs_own_stream_is_left_alone(face: Image) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    for seed in range(60):
        augment_image(face, "robust", np.random.default_rng(seed))
    assert torch.equal(torch.rand(3), expected)


def test_none_changes_nothing(face: Image) -> None:
    assert all(np.array_equal(augment_image(face, "none", np.random.default_rng(seed)), face) for seed in range(20))


def test_flip_is_the_image_or_its_exact_mirror(face: Image) -> None:
    drawn = [augment_image(face, "flip", np.random.default_rng(seed)) for seed in range(200)]
    mirrored = sum(np.array_equal(image, face[:, ::-1]) for image in drawn)
    assert mirrored + sum(np.array_equal(image, face) for image in drawn) == 200
    assert 75 < mirrored < 125


def test_an_unknown_preset_is_refused_by_name(face: Image) -> None:
    with pytest.raises(ConfigError, match="unknown image augmentation 'wild'; known: none, flip, robust$"):
        augment_image(face, "wild", np.random.default_rng(0))


@pytest.mark.parametrize("share", STRENGTHS)
def test_the_mirror_is_exact(face: Image, share: float) -> None:
    assert np.array_equal(_apply(ROBUST["mirror"], face, share), face[:, ::-1])


@pytest.mark.parametrize(("name", "measure"), [("brightness", np.mean), ("contrast", np.std)])
def test_light_is_scaled_by_its_factor(name: str, measure: object) -> None:
    assert callable(measure)
    image = np.random.default_rng(0).integers(80, 160, (64, 64, 3)).astype(np.uint8)  # nothing clips
    for share in STRENGTHS:
        factor = ROBUST[name].low + share * (ROBUST[name].high - ROBUST[name].low)
        assert measure(_apply(ROBUST[name], image, share)) == pytest.approx(factor * measure(image), rel=0.03)


def test_saturation_spreads_the_colours_and_keeps_the_light(face: Image) -> None:
    low, middle, high = (_apply(ROBUST["saturation"], face, share) for share in STRENGTHS)
    assert _spread_of_colours(low) < _spread_of_colours(middle) < _spread_of_colours(high)
    assert _difference(low, face).mean() < 12 and _difference(high, face).mean() < 12


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_hue_turns_the_colours_a_little_and_keeps_the_brightest_channel(face: Image, share: float) -> None:
    changed = _apply(ROBUST["hue"], face, share)
    assert 0.5 < _difference(changed, face).mean() < 10
    assert _difference(changed.max(axis=2), face.max(axis=2)).max() <= 1


def test_grey_has_three_equal_channels(face: Image) -> None:
    changed = _apply(ROBUST["grey"], face, 0)
    assert _spread_of_colours(changed) == 0 and changed.std() > 10


def test_downscaling_takes_detail_the_more_the_smaller(face: Image) -> None:
    smallest, middle, whole = (_gradient_energy(_apply(ROBUST["downscale"], face, share)) for share in STRENGTHS)
    assert smallest < 0.7 * middle and middle < 0.9 * whole
    assert np.array_equal(_apply(ROBUST["downscale"], face, 1), face)


def test_blur_takes_detail_the_more_the_wider(face: Image) -> None:
    narrow, middle, wide = (_gradient_energy(_apply(ROBUST["blur"], face, share)) for share in STRENGTHS)
    assert wide < 0.8 * middle and middle < 0.9 * narrow and narrow < _gradient_energy(face)


def test_blur_is_the_gaussian_of_its_sigma() -> None:
    image = np.zeros((41, 41, 3), dtype=np.uint8)
    image[20, 20] = 255
    weights = _apply(ROBUST["blur"], image, 1)[..., 0].astype(np.float64)
    y = np.arange(41) - 20
    assert np.sqrt((weights.sum(axis=1) * y**2).sum() / weights.sum()) == pytest.approx(ROBUST["blur"].high, rel=0.05)


@pytest.mark.parametrize("share", STRENGTHS)
def test_noise_is_as_strong_as_its_sigma_and_without_bias(share: float) -> None:
    image = np.full((96, 96, 3), 128, dtype=np.uint8)
    noise = _apply(ROBUST["noise"], image, share).astype(np.float64) - 128
    sigma = ROBUST["noise"].low + share * (ROBUST["noise"].high - ROBUST["noise"].low)
    assert noise.std() == pytest.approx(sigma, rel=0.05) and abs(noise.mean()) < 4 * sigma / np.sqrt(noise.size)
    assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.05


def test_noise_adds_detail_and_does_not_wrap_around(face: Image) -> None:
    assert _gradient_energy(_apply(ROBUST["noise"], face, 1)) > _gradient_energy(face) + 50
    for level in (0, 255):
        image = np.full((32, 32, 3), level, dtype=np.uint8)
        assert _difference(_apply(ROBUST["noise"], image, 1), image).max() < 60


def test_jpeg_changes_little_and_less_at_higher_quality(face: Image) -> None:
    low, middle, high = (_difference(_apply(ROBUST["jpeg"], face, share), face).mean() for share in STRENGTHS)
    assert 0 < high < middle < low < 12


def test_jpeg_at_low_quality_shows_its_blocks() -> None:
    y, x = np.indices((96, 96))
    slope = np.repeat((x + 0.37 * y)[..., None], 3, axis=2).astype(np.uint8)
    jumps = np.abs(np.diff(_apply(ROBUST["jpeg"], slope, 0).astype(np.float64), axis=1)).mean(axis=(0, 2))
    at_borders = jumps[7::8].mean()
    assert at_borders > 1.5 * np.delete(jumps, np.arange(7, 95, 8)).mean()


@pytest.mark.parametrize("share", STRENGTHS)
def test_erasing_changes_one_rectangle_of_its_area(share: float) -> None:
    image = np.random.default_rng(1).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    wanted = ROBUST["erase"].low + share * (ROBUST["erase"].high - ROBUST["erase"].low)
    places = set()
    for seed in range(20):
        changed = _apply(ROBUST["erase"], image, share, seed)
        rows, columns = np.nonzero((changed != image).any(axis=2))
        top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
        assert len(np.unique(changed[top:bottom, left:right])) == 1
        assert (bottom - top) * (right - left) / 128**2 == pytest.approx(wanted, rel=0.1)
        assert 0.45 < (bottom - top) / (right - left) < 2.2
        places.add((top, left))
    assert len(places) > 15


def test_operations_happen_as_often_as_they_say(face: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = dict.fromkeys(ROBUST, 0)

    def count(operation: Operation) -> Operation:
        def note(image: torch.Tensor, strength: float, rng: np.random.Generator) -> torch.Tensor:
            assert operation.low <= strength <= operation.high
            counts[operation.name] += 1
            return image

        return Operation(operation.name, operation.probability, note, operation.low, operation.high)

    counted = tuple(count(operation) for operation in ROBUST.values())
    monkeypatch.setattr("pipelines.data.image_augmentation.PRESETS", {"robust": counted})
    rng = np.random.default_rng(0)
    for _ in range(3000):
        augment_image(face, "robust", rng)
    for name, operation in ROBUST.items():
        assert counts[name] / 3000 == pytest.approx(operation.probability, abs=0.03), name


def test_the_trace_of_a_forgery_survives_in_many_images() -> None:
    kept = np.prod([1 - ROBUST[name].probability for name in ("downscale", "blur", "noise", "jpeg")])
    others = [operation.probability for name, operation in ROBUST.items() if name != "mirror"]
    assert kept == pytest.approx(0.37, abs=0.005)  # the numbers of the module's docstring
    assert sum(others) == pytest.approx(1.75) and np.prod(1 - np.array(others)) == pytest.approx(0.14, abs=0.005)


def test_a_preview_shows_each_face_and_draws_of_it(face: Image) -> None:
    other = np.ascontiguousarray(face[::-1])
    picture = preview_augmentations([face, other], "robust", seed=1, columns=4)
    step = 96 + SEPARATOR_PX
    assert picture.shape == (2 * step - SEPARATOR_PX, 4 * step - SEPARATOR_PX, 3) and picture.dtype == np.uint8
    assert (picture[96:step] == 255).all() and (picture[:, 96:step] == 255).all()
    for row, original in enumerate((face, other)):
        cells = [picture[row * step : row * step + 96, column * step : column * step + 96] for column in range(4)]
        assert np.array_equal(cells[0], original)
        assert len({cell.tobytes() for cell in cells}) > 2
    assert np.array_equal(picture, preview_augmentations([face, other], "robust", seed=1, columns=4))
    assert not np.array_equal(picture, preview_augmentations([face, other], "robust", seed=2, columns=4))


def test_a_preview_of_one_column_is_the_untouched_faces(face: Image) -> None:
    assert np.array_equal(preview_augmentations([face], "robust", seed=0, columns=1), face)


@pytest.mark.parametrize(("count", "columns", "preset"), [(0, 3, "flip"), (1, 0, "flip"), (1, 3, "wild")])
def test_a_preview_of_nothing_is_refused(face: Image, count: int, columns: int, preset: str) -> None:
    with pytest.raises(ConfigError):
        preview_augmentations([face] * count, preset, seed=0, columns=columns)
