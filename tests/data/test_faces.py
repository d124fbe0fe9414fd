"""Training images come from the crops at the contract's geometry, in balance, the same for any number of threads."""

from __future__ import annotations

import pickle
import threading
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from pipelines.checkpoints.preprocessing import Preprocessing
from pipelines.data import faces as faces_module
from pipelines.data.faces import (
    BATCHES_AHEAD,
    CACHE_BYTES_MAX,
    Batch,
    Face,
    FaceImages,
    TrainingView,
    default_cache_bytes,
    load_batches,
)
from pipelines.data.samplers import draw_balanced
from pipelines.errors import ConfigError, InputError

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


@pytest.mark.parametrize("box", [(0, 0, 380, 380), (40, 50, 340, 350), (94, 118, 286, 310)])
@pytest.mark.parametrize("size", [64, 192])
def test_without_jitter_and_augmentation_training_shows_what_predict_shows(
    noise: FaceImages, box: tuple[int, int, int, int], size: int
) -> None:
    images = FaceImages(noise.faces, _contract(box, size), augment="none", crop_jitter=0)
    for index in range(len(images)):
        image = images.training_image(index, np.random.default_rng(index))
        assert np.array_equal(image, images.evaluation_image(index))
        assert image.dtype == np.uint8 and image.flags.c_contiguous


def test_without_jitter_an_image_is_at_most_mirrored(noise: FaceImages) -> None:
    images = FaceImages(noise.faces, _contract((40, 40, 340, 340)), crop_jitter=0)
    plain, rng = images.evaluation_image(0), np.random.default_rng(0)
    drawn = [images.training_image(0, rng) for _ in range(100)]
    mirrored = sum(np.array_equal(image, plain[:, ::-1]) for image in drawn)
    assert mirrored + sum(np.array_equal(image, plain) for image in drawn) == 100
    assert 35 < mirrored < 65


@pytest.mark.parametrize("jitter", [0.02, 0.2])
def test_more_jitter_moves_the_crop_further(ruler: Face, jitter: float) -> None:
    images = FaceImages([ruler], _contract((100, 100, 280, 280)), augment="none", crop_jitter=jitter)
    rng = np.random.default_rng(0)
    starts = [_extent(images.training_image(0, rng), 0)[0] for _ in range(200)]
    reach = jitter * 180
    assert 100 - reach - 2 < min(starts) < 100 - 0.5 * reach


@pytest.mark.parametrize("jitter", [-0.1, 0.5, float("nan")])
def test_impossible_jitter_is_refused(ruler: Face, jitter: float) -> None:
    with pytest.raises(ConfigError, match="crop_jitter must be at least 0 and below 0.5, got"):
        FaceImages([ruler], _contract((0, 0, SIZE, SIZE)), crop_jitter=jitter)


def test_augmentation_leaves_the_cached_image_alone(noise: FaceImages) -> None:
    images = FaceImages(noise.faces, _contract((0, 0, SIZE, SIZE), 64), augment="robust", crop_jitter=0)
    before = images.evaluation_image(0).copy()
    for seed in range(60):
        images.training_image(0, np.random.default_rng(seed))
    assert np.array_equal(images.evaluation_image(0), before)


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


def test_the_cache_counts_the_bytes_of_images_of_any_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    faces = [Face(_write(tmp_path / f"{i}.png", rng.integers(0, 256, (SIZE, SIZE, 3))), 0, "v") for i in range(3)]
    limit = SIZE * SIZE * 3 + 2 * 8 * 8 * 3  # one whole frame and two small inputs, however they come
    images = FaceImages(faces, _contract((0, 0, SIZE, SIZE), 8), cache_bytes=limit)
    for index in range(3):
        images.evaluation_image(index)
        images.training_image(index, np.random.default_rng(0))
    for face in faces:
        face.path.unlink()
    images.evaluation_image(0)
    images.training_image(0, np.random.default_rng(0))
    images.evaluation_image(1)
    for read in (images.evaluation_image, lambda index: images.training_image(index, np.random.default_rng(0))):
        with pytest.raises(InputError):
            read(2)


@pytest.mark.parametrize(
    ("free", "expected"), [(None, CACHE_BYTES_MAX), (1 << 40, CACHE_BYTES_MAX), (3_000_001, 1_500_000), (0, 0)]
)
def test_the_cache_takes_at_most_half_of_the_free_memory(
    monkeypatch: pytest.MonkeyPatch, free: int | None, expected: int
) -> None:
    assert 0 < default_cache_bytes() <= CACHE_BYTES_MAX
    monkeypatch.setattr(faces_module, "_free_memory_bytes", lambda: free)
    assert default_cache_bytes() == expected


def test_faces_travel_to_another_process_without_their_cache(noise: FaceImages) -> None:
    copied = pickle.loads(pickle.dumps(noise))
    assert np.array_equal(copied.evaluation_image(0), noise.evaluation_image(0))
    assert len(pickle.dumps(copied)) < 10_000


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
    return np.array([image for batch in batches for image in batch.images]), [
        batch.labels.tolist() for batch in batches
    ]


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


ORDER = [3, 0, 1, 1, 2, 0, 3, 2, 1, 0, 2, 3, 0]


def _robust(images: FaceImages) -> FaceImages:
    return FaceImages(images.faces, images.contract, augment="robust")


def _assert_equal(got: Batch, expected: Batch) -> None:
    assert np.array_equal(np.array(got.images), np.array(expected.images))
    for name in ("labels", "indices", "positions"):
        value, wanted = getattr(got, name), getattr(expected, name)
        assert value.dtype == np.int64 and value.tolist() == wanted.tolist()


def test_a_batch_says_which_faces_it_holds(noise: FaceImages) -> None:
    batches = list(load_batches(noise, ORDER, 4, seed=(0,), workers=2))
    assert [batch.indices.tolist() for batch in batches] == [ORDER[:4], ORDER[4:8], ORDER[8:12]]
    assert [batch.positions.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_threads_change_no_pixel_of_robust_images(noise: FaceImages) -> None:
    one, five = (list(load_batches(_robust(noise), ORDER * 4, 4, seed=(0,), workers=workers)) for workers in (1, 5))
    for got, expected in zip(five, one, strict=True):
        _assert_equal(got, expected)


@pytest.mark.parametrize("first_step", [0, 1, 2, 3, 7])
def test_an_epoch_resumed_in_its_middle_goes_on_with_the_same_batches(noise: FaceImages, first_step: int) -> None:
    whole = list(load_batches(_robust(noise), ORDER, 4, seed=(5,), workers=2))
    rest = list(load_batches(_robust(noise), ORDER, 4, seed=(5,), workers=2, first_step=first_step))
    for got, expected in zip(rest, whole[first_step:], strict=True):
        _assert_equal(got, expected)


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("first_step", [0, 1])
def test_the_processes_shares_make_up_the_batch_of_one(noise: FaceImages, world_size: int, first_step: int) -> None:
    whole = list(load_batches(_robust(noise), ORDER, 4, seed=(5,), workers=1, first_step=first_step))
    shares = [
        load_batches(
            _robust(noise), ORDER, 4, seed=(5,), workers=1, first_step=first_step, rank=r, world_size=world_size
        )
        for r in range(world_size)
    ]
    for expected, *parts in zip(whole, *shares, strict=True):
        assert {len(part.images) for part in parts} == {4 // world_size}
        joined = {
            name: np.concatenate([getattr(part, name) for part in parts]) for name in ("labels", "indices", "positions")
        }
        _assert_equal(Batch([image for part in parts for image in part.images], **joined), expected)


def test_a_batch_that_does_not_divide_is_refused_before_anything_is_read(noise: FaceImages) -> None:
    with pytest.raises(ConfigError, match="a batch of 4 cannot be divided equally among 3 processes"):
        load_batches(noise, ORDER, 4, seed=(0,), workers=1, world_size=3)


class _Recorded(FaceImages):
    """Faces that note which were asked for and can be slow or missing: the loader sees only `training_view`."""

    def prepare(self, *, seconds: float = 0.0, missing: int | None = None) -> _Recorded:
        self.seconds, self.missing, self.asked = seconds, missing, list[int]()
        return self

    def training_view(self, index: int, rng: np.random.Generator) -> TrainingView:
        self.asked.append(index)
        time.sleep(self.seconds)
        if index == self.missing:
            raise InputError(f"face {index} is missing")
        return TrainingView(np.full((2, 2, 3), index, dtype=np.uint8), None)


def _recorded(count: int, *, seconds: float = 0.0, missing: int | None = None) -> _Recorded:
    faces = [Face(Path(f"{i}.png"), i % 2, "v") for i in range(count)]
    return _Recorded(faces, _contract((0, 0, SIZE, SIZE))).prepare(seconds=seconds, missing=missing)


def test_reading_ahead_is_bounded() -> None:
    images = _recorded(40)
    for number, _ in enumerate(load_batches(images, range(40), 4, seed=(0,), workers=3)):
        time.sleep(0.02)
        assert len(images.asked) <= 4 * (number + 1 + BATCHES_AHEAD)


def test_a_face_that_can_not_be_read_stops_the_consumer_at_its_batch() -> None:
    batches = load_batches(_recorded(40, missing=9), range(40), 4, seed=(0,), workers=2)
    assert [next(batches).indices[0], next(batches).indices[0]] == [0, 4]
    with pytest.raises(InputError, match="face 9 is missing"):
        next(batches)


def test_a_consumer_that_stops_early_waits_for_no_queued_image() -> None:
    images, threads = _recorded(300, seconds=0.05), threading.active_count()
    batches = load_batches(images, range(300), 100, seed=(0,), workers=50)
    next(batches)
    start = time.monotonic()
    batches.close()
    assert time.monotonic() - start < 1 and threading.active_count() == threads
    assert len(images.asked) < 300
