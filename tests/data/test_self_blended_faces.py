"""Self-blends among training faces: in fakes' places, each next to its target, the same however an epoch is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from pipelines.checkpoints.preprocessing import Preprocessing, resize_square
from pipelines.data import self_blending
from pipelines.data.faces import Batch, Face, FaceImages, load_batches, preview_self_blends
from pipelines.data.samplers import draw_balanced, draw_blended
from pipelines.data.self_blending import blend_with_itself, draw_source_and_target
from pipelines.errors import DatasetError, InputError
from pipelines.faces.align import template_points
from pipelines.system.image_files import SEPARATOR_PX, read_image

Image = npt.NDArray[np.uint8]
SIZE = 380
TIGHT = (94, 118, 286, 310)
LANDMARKS = template_points().astype(np.float32)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory, face_pictures: dict[str, list[Image]]) -> list[Face]:
    """Three videos: two real faces of one, a real one of another, and two fakes."""
    folder = tmp_path_factory.mktemp("faces")
    made = []
    for number, (label, video) in enumerate([(0, "a"), (1, "x"), (0, "a"), (1, "x"), (0, "b")]):
        path = folder / f"{number}.png"
        picture = resize_square(face_pictures["fake" if label else "real"][number // 2][:150], SIZE)
        cv2.imwrite(str(path), picture[..., ::-1])
        made.append(Face(path, label, video, None if label else LANDMARKS + number))
    return made


def _images(faces: Sequence[Face], augment: str = "none", jitter: float = 0.0, **settings: object) -> FaceImages:
    contract = Preprocessing(crop_box=TIGHT, input_size=192)
    values = {"augment": augment, "crop_jitter": jitter, "self_blends": True} | settings
    return FaceImages(faces, contract, **values)  # type: ignore[arg-type]


def _pair(images: FaceImages, index: int, seed: int) -> tuple[Image, Image]:
    """What stands in the real face's place and in the fake's."""
    real, fake = (
        images.self_blended_image(index, np.random.default_rng(seed), as_fake=as_fake) for as_fake in (False, True)
    )
    return real, fake


@pytest.mark.parametrize(("share", "expected"), [(0, 0), (0.25, 5), (0.5, 10), (0.52, 10), (1, 20)])
def test_self_blends_have_exactly_their_share_of_the_fakes_places(share: float, expected: int) -> None:
    drawn = [draw_blended(40, share, np.random.default_rng(seed)) for seed in range(200)]
    assert all(len(places) == expected and all(place % 2 for place in places) for places in drawn)
    assert all(0 <= place < 40 for places in drawn for place in places)
    counts = Counter(place for places in drawn for place in places)
    assert all(counts[place] == pytest.approx(200 * expected / 20, abs=30) for place in range(1, 40, 2))
    again = draw_blended(40, share, np.random.default_rng(3))
    assert again == drawn[3] and (0 < expected < 20) == (drawn[3] != drawn[4])


def _drawn_from() -> list[Face]:
    return [Face(Path(f"{n}.png"), label, f"{label}-{n}") for n, label in enumerate([0] * 5 + [1] * 4)]


def test_a_self_blend_is_of_the_real_face_before_it_and_all_others_are_drawn_in_balance() -> None:
    faces, blended = _drawn_from(), frozenset({1, 7, 9, 15})
    order = draw_balanced(faces, 20, np.random.default_rng(0), blended)
    assert [faces[index].label for index in order[::2]] == [0] * 10
    assert all(order[place] == order[place - 1] for place in blended)
    fakes = [order[place] for place in range(1, 20, 2) if place not in blended]
    assert all(faces[index].label == 1 for index in fakes) and len(set(fakes[:4])) == 4
    assert len(set(order[:10:2])) == len(set(order[10::2])) == 5, "every real video once before any comes again"


def test_without_self_blends_the_draw_is_what_it_was() -> None:
    faces = _drawn_from()
    order = draw_balanced(faces, 20, np.random.default_rng(0))
    assert order == draw_balanced(faces, 20, np.random.default_rng(0), frozenset())
    assert [faces[index].label for index in order] == [0, 1] * 10


def test_self_blends_alone_need_no_fakes_but_anything_else_does() -> None:
    faces = _drawn_from()
    order = draw_balanced(faces[:5], 10, np.random.default_rng(0), frozenset({1, 3, 5, 7, 9}))
    assert order[::2] == order[1::2]
    for missing, blended in ((faces[:5], frozenset({1, 3, 5, 7})), (faces[5:], frozenset({1, 3, 5, 7, 9}))):
        with pytest.raises(DatasetError, match="one class has no faces to train on"):
            draw_balanced(missing, 10, np.random.default_rng(0), blended)


@pytest.mark.parametrize("augment", ["none", "flip", "robust"])
@pytest.mark.parametrize("jitter", [0.0, 0.04])
def test_the_pair_is_one_crop_under_one_augmentation_and_differs_by_the_blend_alone(
    faces: list[Face], augment: str, jitter: float
) -> None:
    images = _images(faces, augment, jitter)
    images.contract = Preprocessing(input_size=190)
    differences = []
    for seed in range(25):
        real, fake = _pair(images, 0, seed)
        assert real.shape == fake.shape == (190, 190, 3) and real.dtype == fake.dtype == np.uint8
        differences.append(np.abs(real.astype(np.float64) - fake).mean(axis=2))
    mean = np.mean(differences, axis=0)
    assert mean[85:110, 75:115].mean() > 2, "eyes and nose are pasted"
    border = mean[:, [*range(12), *range(178, 190)]]
    assert border.max() == 0 if augment != "robust" else border.mean() < 0.5


def test_both_of_a_pair_are_augmented(faces: list[Face]) -> None:
    plain, flipped = _images(faces), _images(faces, "flip")
    mirrored = []
    for seed in range(40):
        mirrors = [
            np.array_equal(b, a[:, ::-1]) for a, b in zip(_pair(plain, 0, seed), _pair(flipped, 0, seed), strict=True)
        ]
        assert mirrors[0] == mirrors[1]
        mirrored.append(mirrors[0])
    assert 10 < sum(mirrored) < 30


def test_a_target_is_the_face_in_one_of_two_looks(faces: list[Face]) -> None:
    images = _images(faces)
    plain = images.evaluation_image(0)
    targets = [_pair(images, 0, seed)[0] for seed in range(60)]
    assert 18 < sum(np.array_equal(target, plain) for target in targets) < 42
    assert len({target.tobytes() for target in targets}) > 15


def test_a_blend_of_the_region_is_the_blend_of_the_whole_crop(
    faces: list[Face], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_blending, "_coarsen", lambda image, rng: image)  # its grid begins at the region's corner
    images, (x0, y0, x1, y1) = _images(faces), TIGHT
    whole = read_image(faces[0].path)
    for seed in range(20):
        real, fake = _pair(images, 0, seed)
        blend = blend_with_itself(whole, LANDMARKS.astype(np.float64), np.random.default_rng(seed).spawn(2)[0])
        assert np.array_equal(real, blend.target[y0:y1, x0:x1])
        assert np.abs(fake - blend.image[y0:y1, x0:x1].astype(np.float64)).max() <= 6
        assert np.abs(fake - blend.image[y0:y1, x0:x1].astype(np.float64)).mean() < 0.1


@pytest.mark.parametrize(
    ("landmarks", "same"),
    [(None, True), (LANDMARKS * np.float32(np.nan), True), (LANDMARKS[[0, 0, 2, 3, 4]], True), (LANDMARKS + 25, False)],
    ids=["none", "not known", "no face", "moved"],
)
def test_the_blend_lies_where_the_landmarks_say(
    faces: list[Face], landmarks: npt.NDArray[np.float32] | None, same: bool
) -> None:
    usual = _images([Face(faces[0].path, 0, "v", LANDMARKS)])
    images = _images([Face(faces[0].path, 0, "v", landmarks)])
    for seed in range(5):
        difference = np.abs(_pair(images, 0, seed)[1].astype(np.float64) - _pair(usual, 0, seed)[1]).mean()
        assert difference < 0.01 if same else difference > 0.1


def test_the_template_stands_at_the_margin_of_the_crops(faces: list[Face]) -> None:
    contract = Preprocessing(margin=1.5, input_size=SIZE)
    images = FaceImages([Face(faces[0].path, 0, "v")], contract, augment="none", crop_jitter=0, self_blends=True)
    stream = np.random.default_rng(5).spawn(2)[0]
    expected = blend_with_itself(read_image(faces[0].path), template_points(1.5), stream).image
    assert np.array_equal(_pair(images, 0, 5)[1], expected)


@pytest.mark.parametrize("jitter", [0.0, 0.04])
@pytest.mark.parametrize("augment", ["none", "robust"])
def test_faces_that_are_not_blended_look_as_if_nothing_was(faces: list[Face], augment: str, jitter: float) -> None:
    images, plain = _images(faces, augment, jitter), _images(faces, augment, jitter, self_blends=False)
    for index in range(len(faces) if jitter else 0):
        expected = plain.training_image(index, np.random.default_rng(7))
        assert np.array_equal(images.training_image(index, np.random.default_rng(7)), expected)
    if augment == "none" and not jitter:
        for index in range(len(faces)):
            expected = plain.evaluation_image(index)
            assert np.array_equal(images.training_image(index, np.random.default_rng(7)), expected)


def test_the_cache_changes_no_blend_is_never_written_to_and_holds_a_face_once(
    tmp_path: Path, faces: list[Face]
) -> None:
    copies = []
    for face in faces:
        path = tmp_path / face.path.name
        path.write_bytes(face.path.read_bytes())
        copies.append(Face(path, face.label, face.video_id, face.landmarks))
    one = (192 + 2 * 24) ** 2 * 3
    cached, uncached = _images(copies, cache_bytes=one), _images(copies, cache_bytes=0)
    expected = [_pair(uncached, 0, seed) for seed in range(5)]
    plain = uncached.training_image(0, np.random.default_rng(0))
    for _ in range(2):
        for seed, (real, fake) in enumerate(expected):
            got = _pair(cached, 0, seed)
            assert np.array_equal(got[0], real) and np.array_equal(got[1], fake)
        assert np.array_equal(cached.training_image(0, np.random.default_rng(0)), plain)
        for face in copies[:1]:
            face.path.unlink(missing_ok=True)
    with pytest.raises(InputError):
        _pair(uncached, 0, 0)


ORDER = [0, 0, 2, 1, 4, 4, 0, 3, 2, 2, 4, 1]
BLENDED = frozenset({1, 5, 9})


def _load(images: FaceImages, **settings: int) -> list[Batch]:
    values = {"workers": 2} | settings
    return list(load_batches(images, ORDER, 4, seed=(8, 1), blended=BLENDED, **values))  # type: ignore[arg-type]


def test_batches_hold_self_blends_as_fakes_beside_their_targets(faces: list[Face]) -> None:
    images = _images(faces, "robust", 0.04)
    batches = _load(images)
    assert [batch.labels.tolist() for batch in batches] == [[0, 1, 0, 1]] * 3
    assert [index for batch in batches for index in batch.indices.tolist()] == ORDER
    shown = [image for batch in batches for image in batch.images]
    for position, index in enumerate(ORDER):
        if position in BLENDED or position + 1 in BLENDED:
            stream = np.random.default_rng((8, 1, position | 1))
            expected = images.self_blended_image(index, stream, as_fake=position in BLENDED)
        else:
            expected = images.training_image(index, np.random.default_rng((8, 1, position)))
        assert np.array_equal(shown[position], expected)


@pytest.mark.parametrize("workers", [1, 5])
@pytest.mark.parametrize("first_step", [0, 1, 2])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_neither_threads_nor_a_resume_nor_processes_change_a_self_blend(
    faces: list[Face], workers: int, first_step: int, world_size: int
) -> None:
    whole = _load(_images(faces, "flip", 0.04))[first_step:]
    shares = [
        _load(_images(faces, "flip", 0.04), workers=workers, first_step=first_step, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for expected, *parts in zip(whole, *shares, strict=True):
        images = [image for part in parts for image in part.images]
        assert all(np.array_equal(got, want) for got, want in zip(images, expected.images, strict=True))
        assert [label for part in parts for label in part.labels] == expected.labels.tolist()


def test_a_preview_shows_targets_above_their_blends_and_of_real_faces_only(faces: list[Face]) -> None:
    images = _images(faces)
    rows = preview_self_blends(images, seed=3, columns=4)
    step = 192 + SEPARATOR_PX
    assert len(rows) == 6 and {row.shape for row in rows} == {(192, 4 * step - SEPARATOR_PX, 3)}
    for number, index in enumerate((0, 2, 4)):
        for as_fake in (False, True):
            row = rows[2 * number + as_fake]
            assert np.array_equal(row[:, :192], images.evaluation_image(index))
            for column in (1, 2, 3):
                stream = np.random.default_rng((3, index, column))
                expected = images.self_blended_image(index, stream, as_fake=as_fake)
                assert np.array_equal(row[:, column * step : column * step + 192], expected)


def test_the_target_that_is_learned_as_real_is_that_of_the_blend(faces: list[Face]) -> None:
    image = read_image(faces[0].path)
    for seed in range(10):
        _, target = draw_source_and_target(image, np.random.default_rng(seed))
        assert np.array_equal(blend_with_itself(image, None, np.random.default_rng(seed)).target, target)
