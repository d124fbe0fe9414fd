"""The data sets that `index` knows, a line each."""

from __future__ import annotations

from pipelines.datasets.dataset import Dataset
from pipelines.errors import DatasetError

DATASETS: dict[str, Dataset] = {}


def find_dataset(name: str) -> Dataset:
    """The data set of this name.

    Raises:
        DatasetError: there is none.
    """
    if name not in DATASETS:
        raise DatasetError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    return DATASETS[name]
