"""Every data set that can be imported, by name. A new one is one module with a ``DATASET``, and one line here."""

from __future__ import annotations

from prostate_mim.datasets.found import DataSet

_ALL: tuple[DataSet, ...] = ()

DATASETS: dict[str, DataSet] = {dataset.name: dataset for dataset in _ALL}
