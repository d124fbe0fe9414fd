"""The data sets that `index` knows, a line each."""

from __future__ import annotations

from pipelines.datasets.celebdf import CELEBDF_V1, CELEBDF_V2
from pipelines.datasets.csv_list import CSV
from pipelines.datasets.dataset import Dataset
from pipelines.datasets.deeperforensics import DEEPERFORENSICS
from pipelines.datasets.dfd import DFD
from pipelines.datasets.dfdc import DFDC
from pipelines.datasets.dfdcp import DFDCP
from pipelines.datasets.ffpp import FFPP
from pipelines.datasets.folder import FOLDER
from pipelines.datasets.wilddeepfake import WILDDEEPFAKE
from pipelines.errors import DatasetError

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (
        FFPP,
        DFD,
        DEEPERFORENSICS,
        CELEBDF_V1,
        CELEBDF_V2,
        DFDC,
        DFDCP,
        WILDDEEPFAKE,
        FOLDER,
        CSV,
    )
}


def find_dataset(name: str) -> Dataset:
    """The data set of this name.

    Raises:
        DatasetError: there is none.
    """
    if name not in DATASETS:
        raise DatasetError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}")
    return DATASETS[name]
