"""FaceForensics++: a thousand YouTube clips, and five methods that put the faces of one into another."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.datasets.dataset import Dataset, Listing, Mismatch, PublishedCount
from pipelines.datasets.ffpp_tree import (
    COMPRESSIONS,
    FAKES,
    REALS,
    YOUTUBE,
    YOUTUBE_EXAMPLE,
    YOUTUBE_NAME,
    Part,
    count_part,
    find_parts,
    make_key,
)
from pipelines.datasets.layout import compare_with_list, find_base, find_folder, find_split_lists, no_layout, read_json
from pipelines.errors import DatasetError
from pipelines.records import SPLITS, VideoRow

NAME = "ffpp"
METHODS = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter")
NUM_VIDEOS = 1000
NUM_VIDEOS_OF = {"train": 720, "val": 140, "test": 140}
_FAKE_NAME = re.compile(r"\d{3}_\d{3}")
_KNOWN_FOLDERS = {REALS: (YOUTUBE, "actors"), FAKES: (*METHODS, "DeepFakeDetection")}
_SPLIT_FOLDERS = ((), ("splits",), ("dataset", "splits"))


@dataclass(frozen=True)
class _Lists:
    """Splits and groups of the clips."""

    split_of: Mapping[str, str]
    """By the stem of a real (`071`) or fake (`071_054`) video; empty without the official lists."""
    group_of: Mapping[str, str]
    """By the id of a clip: the ids that must stay in one split, joined by `_`."""


def list_ffpp(root: Path) -> Listing:
    """The videos of FaceForensics++ at every compression found; `raw` counts as `c0`.

    The pair (a, b) of an official list stands for the real a and b and, of every method, the fakes a_b and b_a, where
    target_source names whose body and whose face is seen. Without the lists nothing has a split; the names of the fakes
    then say which clips belong together. The people in them are not published: 977 videos gave 1000 clips.

    Raises:
        DatasetError: another layout, or split lists that are incomplete, malformed or contradict themselves.
    """
    base = find_base(root, (REALS, YOUTUBE), *((FAKES, method) for method in METHODS))
    if base is None:
        looked_for = f"{REALS}/{YOUTUBE} and no {FAKES}/METHOD (METHOD: {', '.join(METHODS)})"
        raise no_layout(root, NAME, looked_for)
    parts, mismatches = find_parts(base, REALS, YOUTUBE, names=YOUTUBE_NAME, example=YOUTUBE_EXAMPLE, root=root)
    for method in METHODS:
        of_method, passed_over = find_parts(base, FAKES, method, names=_FAKE_NAME, example="071_054.mp4", root=root)
        parts, mismatches = parts + of_method, mismatches + passed_over
    mismatches += _find_unknown_folders(base, root)
    pairs = _read_pairs(base)
    if pairs is None:
        fakes = [stem for part in parts if part.source in METHODS for stem in part.videos]
        lists = _Lists({}, _join_pairs(stem.split("_") for stem in fakes))
        mismatches.append(_lists_are_missing(base.relative_to(root).as_posix()))
    else:
        lists = _Lists(_expand(pairs), _join_pairs(pairs))
        mismatches += [mismatch for part in parts for mismatch in _compare(part, lists)]
    rows = [_make_row(part, stem, lists) for part in parts for stem in part.videos]
    return Listing(sorted(rows, key=lambda row: row.video_key), mismatches, has_official_split=pairs is not None)


def _find_unknown_folders(base: Path, root: Path) -> list[Mismatch]:
    mismatches = []
    for branch, names in _KNOWN_FOLDERS.items():
        folder = find_folder(base, branch)
        known = {name.casefold() for name in names}
        for child in sorted(path for path in folder.iterdir() if path.is_dir()) if folder else ():
            if child.name.casefold() not in known:
                message = f"skipped: neither of FaceForensics++ nor of DeepFakeDetection, which have {', '.join(names)}"
                mismatches.append(Mismatch("layout", child.relative_to(root).as_posix(), message))
    return mismatches


def _make_row(part: Part, stem: str, lists: _Lists) -> VideoRow:
    row = replace(part.make_row(NAME, stem), split=lists.split_of.get(stem))
    if part.source == YOUTUBE:
        return replace(row, label="real", group=lists.group_of.get(stem))
    target, source = stem.split("_")
    return replace(
        row,
        label="fake",
        method=part.source,
        original=make_key(NAME, YOUTUBE, part.compression, target),
        # The original ties a fake to its target, so the group has to tie it to its source.
        group=lists.group_of.get(source) or "_".join(sorted((target, source))),
    )


def _read_pairs(base: Path) -> dict[tuple[str, str], str] | None:
    """The split of every pair of ids; None without a list.

    Raises:
        DatasetError: only some of the lists are there, or an id stands in two pairs.
    """
    lists = find_split_lists((find_folder(base, *names) for names in _SPLIT_FOLDERS), ".json")
    if lists is None:
        return None
    pairs: dict[tuple[str, str], str] = {}
    listed_in: dict[str, Path] = {}
    for split, path in lists.items():
        for pair in _check_pairs(read_json(path), path):
            for name in pair:
                if name in listed_in:
                    raise DatasetError(
                        f"{name!r} is in two pairs ({listed_in[name]} and {path}) but belongs to one; get the lists again"
                    )
            listed_in |= dict.fromkeys(pair, path)
            pairs[pair] = split
    return pairs


def _check_pairs(content: Any, path: Path) -> Iterator[tuple[str, str]]:
    for pair in content if isinstance(content, list) else [content]:
        is_pair = isinstance(pair, list) and len(pair) == 2 and pair[0] != pair[1]
        if not is_pair or not all(isinstance(name, str) and YOUTUBE_NAME.fullmatch(name) for name in pair):
            raise DatasetError(
                f'{path} must be a list of pairs such as ["071", "054"], got {str(pair)[:60]}; get it again from the data '
                "set's page"
            )
        yield pair[0], pair[1]


def _expand(pairs: Mapping[tuple[str, str], str]) -> dict[str, str]:
    """The split of each real and fake stem."""
    return {
        stem: split
        for (one, other), split in pairs.items()
        for stem in (one, other, f"{one}_{other}", f"{other}_{one}")
    }


def _join_pairs(pairs: Iterable[Iterable[str]]) -> dict[str, str]:
    """The group of each id; pairs that share one, which official ones do not, become one group."""
    joined: dict[str, frozenset[str]] = {}
    for pair in pairs:
        members = frozenset().union(*(joined.get(name, {name}) for name in pair))
        joined |= dict.fromkeys(members, members)
    return {name: "_".join(sorted(members)) for name, members in joined.items()}


def _compare(part: Part, lists: _Lists) -> list[Mismatch]:
    names = YOUTUBE_NAME if part.source == YOUTUBE else _FAKE_NAME
    return compare_with_list(part.where, found=part.videos, listed=filter(names.fullmatch, lists.split_of))


def _lists_are_missing(where: str) -> Mismatch:
    message = (
        "no train.json, val.json and test.json here, in splits or in dataset/splits, so nothing has a split; the official "
        "lists are in the folder dataset/splits of github.com/ondyari/FaceForensics"
    )
    return Mismatch("layout", where, message)


def _count(source: str, compression: str, split: str | None) -> PublishedCount:
    count = NUM_VIDEOS_OF[split] if split else NUM_VIDEOS
    method = None if source == YOUTUBE else source
    return count_part(count, source, compression, method=method, split=split)


FFPP = Dataset(
    name=NAME,
    title="FaceForensics++ (Rössler, Cozzolino, Verdoliva, Riess, Thies and Nießner, 2019)",
    list_videos=list_ffpp,
    request=(
        "The form at github.com/ondyari/FaceForensics; after agreement to the FaceForensics terms of use (research "
        "and teaching, not commercial) a download script is sent by mail. The split lists are in the folder dataset/splits "
        "of that repository."
    ),
    layout="""\
ROOT/
  original_sequences/youtube/{raw or c0,c23,c40}/videos/071.mp4
  manipulated_sequences/
    {Deepfakes,Face2Face,FaceSwap,NeuralTextures,FaceShifter}/
      {raw or c0,c23,c40}/videos/071_054.mp4    target_source
      masks/videos/071_054.mp4                  if downloaded; FaceShifter has none
  train.json val.json test.json                 here, in splits/ or in dataset/splits/
""",
    published=tuple(
        _count(source, compression, split)
        for source in (YOUTUBE, *METHODS)
        for compression in COMPRESSIONS
        for split in (None, *SPLITS)
    ),
)
