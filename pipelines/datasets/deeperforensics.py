"""DeeperForensics-1.0: actors' faces in the YouTube clips of FaceForensics++, in eleven variants."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from pipelines.datasets.dataset import Dataset, Listing, Mismatch
from pipelines.datasets.ffpp_tree import (
    REALS,
    YOUTUBE,
    YOUTUBE_EXAMPLE,
    YOUTUBE_NAME,
    Part,
    count_part,
    find_parts,
    make_key,
)
from pipelines.datasets.layout import (
    compare_with_list,
    find_base,
    find_folder,
    find_split_lists,
    no_layout,
    read_lines,
    videos_by_stem,
)
from pipelines.errors import DatasetError
from pipelines.records import SPLITS, Split, VideoRow

NAME = "deeperforensics"
METHOD = "DeeperForensics"
FAKES = "manipulated_videos"
VARIANTS = (
    "end_to_end",
    *(f"end_to_end_level_{level}" for level in range(1, 6)),
    "end_to_end_random_level",
    *(f"end_to_end_mix_{number}_distortions" for number in range(2, 5)),
    "reenact_postprocess",
)
NUM_VIDEOS = 1000
NUM_VIDEOS_OF = {"train": 703, "val": 96, "test": 201}
"""The page gives 703 : 96 : 21 of 1000: a digit of the last is missing."""
REAL_COMPRESSION = "c23"
"""The one that the authors recommend."""
_FAKE_NAME = re.compile(r"(?P<target>\d{3})_(?P<actor>[MW]\d{3})")


def list_deeperforensics(root: Path) -> Listing:
    """The fakes of every variant found, and the clips of FaceForensics++ that they were made from.

    A fake `071_M005` shows the clip 071 with the face of the actor M005 (W005: a woman). The recordings of the actors
    (`source_videos`) are not the real side: the authors name the clips NNN for that, which come with FaceForensics++. The
    official lists name fakes; a clip is on the side of its fake.

    Raises:
        DatasetError: another layout, or split lists that are incomplete, malformed or contradict themselves.
    """
    base = find_base(root, (FAKES,))
    if base is None:
        raise no_layout(root, NAME, f"{FAKES} (is the download unpacked?)")
    fakes, mismatches = _find_fakes(base, root)
    reals, passed_over = _find_reals(base, root)
    split_of = _read_splits(base)
    if split_of is None:
        mismatches.append(_lists_are_missing(base.relative_to(root).as_posix()))
    else:
        for part in fakes + reals:
            names = YOUTUBE_NAME if part.source == YOUTUBE else _FAKE_NAME
            mismatches += compare_with_list(part.where, found=part.videos, listed=filter(names.fullmatch, split_of))
    compressions = {part.compression for part in reals} or {REAL_COMPRESSION}
    real_compression = REAL_COMPRESSION if REAL_COMPRESSION in compressions else min(compressions)
    rows = [_make_real(part, stem) for part in reals for stem in part.videos]
    rows += [_make_fake(part, stem, real_compression) for part in fakes for stem in part.videos]
    videos = [replace(row, split=(split_of or {}).get(Path(row.path).stem)) for row in rows]
    videos.sort(key=lambda row: row.video_key)
    return Listing(videos, mismatches + passed_over, has_official_split=split_of is not None)


def _find_fakes(base: Path, root: Path) -> tuple[list[Part], list[Mismatch]]:
    parts: list[Part] = []
    mismatches: list[Mismatch] = []
    folder = find_folder(base, FAKES)
    assert folder is not None
    for child in sorted(path for path in folder.iterdir() if path.is_dir()):
        where = child.relative_to(root).as_posix()
        if child.name.lower() not in VARIANTS:
            mismatches.append(Mismatch("layout", where, f"skipped: the variants are {', '.join(VARIANTS)}"))
            continue
        videos, passed_over = videos_by_stem(child, names=_FAKE_NAME, example="000_M101.mp4", root=root)
        parts.append(Part(METHOD, child.name.lower(), where, videos, masks={}))
        mismatches += passed_over
    if not parts:
        where = folder.relative_to(root).as_posix()
        message = f"no variant is there ({', '.join(VARIANTS)}); unpack the download with its script: bash unzip.sh"
        mismatches.append(Mismatch("layout", where, message))
    return parts, mismatches


def _find_reals(base: Path, root: Path) -> tuple[list[Part], list[Mismatch]]:
    of_ffpp = base if find_folder(base, REALS, YOUTUBE) else find_base(root, (REALS, YOUTUBE))
    if of_ffpp is None:
        message = (
            f"no {REALS}/{YOUTUBE}, so nothing is real: the real videos are the YouTube clips of FaceForensics++ "
            f"({REAL_COMPRESSION}) and not source_videos; move or link its folder {REALS} to this place"
        )
        return [], [Mismatch("layout", base.relative_to(root).as_posix(), message)]
    return find_parts(of_ffpp, REALS, YOUTUBE, names=YOUTUBE_NAME, example=YOUTUBE_EXAMPLE, root=root)


def _read_splits(base: Path) -> Mapping[str, Split] | None:
    """The split by the stem of a fake (`000_M101`) and of the clip under it (`000`); None without a list.

    Raises:
        DatasetError: only some of the lists are there, or they contradict each other.
    """
    lists = find_split_lists([find_folder(base, "lists", "splits")], ".txt")
    if lists is None:
        return None
    split_of: dict[str, Split] = {}
    for split, path in lists.items():
        for line in read_lines(path):
            match = _FAKE_NAME.fullmatch(PurePosixPath(line).stem)
            if match is None:
                raise DatasetError(f"{path} must have names such as 000_M101.mp4, got {line[:60]!r}; get it again")
            for stem in (match[0], match["target"]):
                if split_of.setdefault(stem, split) != split:
                    other = lists[split_of[stem]]
                    raise DatasetError(f"{stem!r} is in {other} and in {path}; get the lists again")
    return split_of


def _make_real(part: Part, stem: str) -> VideoRow:
    return replace(part.make_row(NAME, stem), label="real", group=f"{NAME}:{stem}")


def _make_fake(part: Part, stem: str, real_compression: str) -> VideoRow:
    target, actor = stem.split("_")
    return replace(
        part.make_row(NAME, stem),
        label="fake",
        method=METHOD,
        original=make_key(NAME, YOUTUBE, real_compression, target),
        identity=f"{NAME}:{actor}",
        # The original ties the variants to the clip at one compression, the group to all of them.
        group=f"{NAME}:{target}",
    )


def _lists_are_missing(where: str) -> Mismatch:
    message = (
        "no lists/splits with train.txt, val.txt and test.txt, so nothing has a split; they come with the download"
    )
    return Mismatch("layout", where, message)


DEEPERFORENSICS = Dataset(
    name=NAME,
    title="DeeperForensics-1.0 (Jiang, Li, Wu, Qian and Loy, 2020)",
    list_videos=list_deeperforensics,
    request=(
        "The form at github.com/EndlessSora/DeeperForensics-1.0 (folder dataset), after agreement to its terms of use "
        "(research, not commercial). The real videos are those of FaceForensics++ at c23, requested there: "
        "deepfake index ffpp --download-help."
    ),
    layout="""\
ROOT/
  manipulated_videos/
    {end_to_end,end_to_end_level_1,...,reenact_postprocess}/000_M101.mp4    target_actor
  lists/splits/train.txt val.txt test.txt
  original_sequences/youtube/c23/videos/000.mp4    from FaceForensics++: the real videos
  source_videos/                                   the actors; not listed, they are no real side
Unpack the download with its script first: bash unzip.sh
The folder of FaceForensics++ may also be next to that of DeeperForensics-1.0 in ROOT.
""",
    published=tuple(
        count_part(NUM_VIDEOS_OF[split] if split else NUM_VIDEOS, source, compression, method=method, split=split)
        for source, method, compression in (
            (YOUTUBE, None, REAL_COMPRESSION),
            *((METHOD, METHOD, variant) for variant in VARIANTS),
        )
        for split in (None, *SPLITS)
    ),
)
