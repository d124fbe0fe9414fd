"""Training images come from the crops at the contract's geometry, in balance, the same for any number of threads."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from pipelines.data.faces import Face, FaceImages, draw_balanced, load_batches
from pipelines.errors import InputError
from pipelines.preprocessing import Preprocessing

Image = npt.NDArray[np.uint8]
SIZE = 380


def _write(path: Path, image: npt.NDArray[np.generic]) -> Path:
    cv2.imwrite(str(path), image[..., ::-1].astype(np.uint8))
    return path


@pytest.fixture(scope="module")
def ruler(tmp_path_factory: pytest.TempPathFactory) -> Face:
    """A crop whose red tells the column and whose green tells the row: 0 at the start of the frame, 255 at its end."""
    y, x = np.indices((SIZE, SIZE)) + 0.5
    image = np.stack([x / SIZE * 255, y / SIZE * 255, np.zeros_like(x)], axis=-1).round()
    return Face(_write(tmp_path_factory.mktemp("ruler") / "ruler.png", image), 0, "ruler")


def _extent(image: Image, channel: int) -> tuple[float, float]:
    """Where the image begins and ends in the aligned frame, in its pixels, along x (channel 0) or y (channel 1)."""
    line = image[..., channel].astype(np.float64).mean(axis=channel) / 255 * SIZE
    slope, start = np.polyfit(np.arange(len(line)) + 0.5, line, 1)
    return float(start), float(start + slope * len(line))


def _contract(box: tuple[int, int, int, int], size: int = 64) -> Preprocessing:
    return Preprocessing(crop_box=box, input_size=size)


@pytest.mark.parametrize("box", [(0, 0, 380, 380), (40, 50, 340, 350), (190, 0, 380, 190)])
def test_an_evaluation_image_shows_the_crop_box(ruler: Face, box: tuple[int, int, int, int]) -> None:
    image = FaceImages([ruler], _contract(box)).evaluation_image(0)
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    assert (*_extent(image, 0), *_extent(image, 1)) == pytest.approx((box[0], box[2], box[1], box[3]), abs=1.5)


@pytest.mark.parametrize("box", [(0, 0, 380, 380), (40, 50, 340, 350), (60, 60, 320, 320)])
def test_training_images_stay_within_a_few_percent_of_the_crop_box(ruler: Face, box: tuple[int, int, int, int]) -> None:
    images, rng = FaceImages([ruler], _contract(box)), np.random.default_rng(0)
    size = box[2] - box[0]
    reach, places, mirrored = 0.04 * size + 1.5, [], 0
    for _ in range(200):
        image = images.training_image(0, rng)
        assert image.shape == (64, 64, 3) and image.dtype == np.uint8 and image.flags.c_contiguous
        (x0, x1), (y0, y1) = _extent(image, 0), _extent(image, 1)
        if x0 > x1:
            x0, x1, mirrored = x1, x0, mirrored + 1
        assert y1 - y0 == pytest.approx(x1 - x0, abs=2.5), "a training image must not be stretched"
        assert size - 2 * reach < x1 - x0 < size + 2 * reach
        assert max(0, box[0] - reach) - 1.5 < x0 and x1 < min(SIZE, box[2] + reach) + 1.5
        assert max(0, box[1] - reach) - 1.5 < y0 and y1 < min(SIZE, box[3] + reach) + 1.5
        places.append((x0, y0, x1 - x0))
    assert 70 < mirrored < 130
    assert np.ptp(places, axis=0).min() > 0.5 * reach, "shift and size must vary"


def test_training_images_are_the_crop_unchanged_but_for_geometry(tmp_path: Path) -> None:
    flat = np.full((SIZE, SIZE, 3), (200, 100, 30))
    images = FaceImages([Face(_write(tmp_path / "flat.png", flat), 1, "v")], _contract((0, 0, SIZE, SIZE)))
    image = images.training_image(0, np.random.default_rng(1))
    assert (image == np.array([200, 100, 30])).all()


def test_the_same_stream_gives_the_same_training_image(ruler: Face) -> None:
    images = FaceImages([ruler], _contract((0, 0, SIZE, SIZE)))
    first, again, other = (images.training_image(0, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_the_cache_changes_nothing_and_saves_reading(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths = [_write(tmp_path / f"{i}.png", rng.integers(0, 256, (SIZE, SIZE, 3))) for i in range(3)]
    faces = [Face(path, 0, "v") for path in paths]
    contract = _contract((40, 40, 340, 340))
    cached, uncached = FaceImages(faces, contract), FaceImages(faces, contract, cache_bytes=0)

    def everything(images: FaceImages) -> list[Image]:
        evaluation = [images.evaluation_image(i) for i in range(3)]
        return evaluation + [images.training_image(i, np.random.default_rng(i)) for i in range(3)]

    expected = everything(uncached)
    for _ in range(2):
        for got, want in zip(everything(cached), expected, strict=True):
            assert np.array_equal(got, want)
    for path in paths:
        path.unlink()
    assert all(np.array_equal(got, want) for got, want in zip(everything(cached), expected, strict=True))
    with pytest.raises(InputError, match=r"0\.png is missing or damaged"):
        uncached.evaluation_image(0)


def test_the_cache_stays_within_its_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    faces = [Face(_write(tmp_path / f"{i}.png", rng.integers(0, 256, (SIZE, SIZE, 3))), 0, "v") for i in range(5)]
    images = FaceImages(faces, _contract((0, 0, SIZE, SIZE)), cache_bytes=2 * SIZE * SIZE * 3 + 100)
    for index in range(5):
        images.training_image(index, np.random.default_rng(0))
    for face in faces:
        face.path.unlink()
    readable = []
    for index in range(5):
        try:
            images.training_image(index, np.random.default_rng(0))
            readable.append(index)
        except InputError:
            pass
    assert readable == [0, 1]


def _faces(reals: dict[str, int], fakes: dict[str, int]) -> list[Face]:
    return [
        Face(Path(f"{video}-{number}.png"), label, video)
        for label, videos in enumerate((reals, fakes))
        for video, count in videos.items()
        for number in range(count)
    ]


def test_real_and_fake_faces_are_drawn_in_turn() -> None:
    faces = _faces({"a": 3, "b": 1}, {"x": 50, "y": 2, "z": 7})
    order = draw_balanced(faces, 41, np.random.default_rng(0))
    assert [faces[index].label for index in order] == [0, 1] * 20 + [0]


def test_every_video_of_a_class_comes_once_before_any_comes_again() -> None:
    faces = _faces({"a": 3, "b": 1, "c": 9}, {"x": 50, "y": 2, "z": 7, "w": 1})
    order = draw_balanced(faces, 240, np.random.default_rng(0))
    for label, videos in enumerate((["a", "b", "c"], ["w", "x", "y", "z"])):
        drawn = [faces[index].video_id for index in order[label::2]]
        rounds = [drawn[start : start + len(videos)] for start in range(0, len(drawn), len(videos))]
        assert all(sorted(each) == videos for each in rounds)
        assert len({tuple(each) for each in rounds}) > 3, "the order within a round must vary"


def test_all_faces_of_a_video_get_their_turn_equally_often() -> None:
    faces = _faces({"a": 4}, {"x": 1})
    counts = Counter(draw_balanced(faces, 4000, np.random.default_rng(0))[::2])
    assert set(counts) == {0, 1, 2, 3} and min(counts.values()) > 420


def test_the_draw_follows_its_generator() -> None:
    faces = _faces({"a": 9, "b": 9}, {"x": 9, "y": 9})
    first, again, other = (draw_balanced(faces, 40, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again != other


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> FaceImages:
    folder, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    faces = [Face(_write(folder / f"{i}.png", rng.integers(0, 256, (SIZE, SIZE, 3))), i % 2, f"v{i}") for i in range(4)]
    return FaceImages(faces, _contract((0, 0, SIZE, SIZE), 32))


def _load(
    images: FaceImages, order: list[int], batch_size: int, *, seed: tuple[int, ...] = (0, 1), workers: int = 1
) -> tuple[Image, list[list[int]]]:
    batches = list(load_batches(images, order, batch_size, seed=seed, workers=workers))
    return np.array([image for batch, _ in batches for image in batch]), [labels.tolist() for _, labels in batches]


@pytest.mark.parametrize("workers", [0, 2, 5])
def test_batches_do_not_depend_on_the_number_of_threads(noise: FaceImages, workers: int) -> None:
    order = [0, 1, 2, 3, 0, 1, 2, 1, 0, 3]
    expected, labels = _load(noise, order, 2)
    got, got_labels = _load(noise, order, 2, workers=workers)
    assert np.array_equal(got, expected) and got_labels == labels


def test_batches_are_the_augmented_faces_of_the_order_with_their_labels(noise: FaceImages) -> None:
    order = [3, 0, 1, 1, 2, 0]
    got, labels = _load(noise, order, 2, seed=(4, 2))
    expected = [noise.training_image(face, np.random.default_rng((4, 2, i))) for i, face in enumerate(order)]
    assert np.array_equal(got, np.array(expected)) and labels == [[1, 0], [1, 1], [0, 0]]


def test_a_batch_that_is_not_full_is_left_out(noise: FaceImages) -> None:
    got, labels = _load(noise, [0, 1, 2, 3, 0], 2)
    assert len(got) == 4 and len(labels) == 2
    assert _load(noise, [0], 2)[1] == []


def test_another_seed_gives_other_images(noise: FaceImages) -> None:
    first, other = _load(noise, [0, 1], 2, seed=(0, 1))[0], _load(noise, [0, 1], 2, seed=(0, 2))[0]
    assert not np.array_equal(first, other)


def test_one_face_drawn_twice_is_augmented_anew(noise: FaceImages) -> None:
    images, _ = _load(noise, [1, 1], 2)
    assert not np.array_equal(images[0], images[1])
