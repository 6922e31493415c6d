"""Every data set that can be imported, by name. A new one is one module with a ``DATASET``, and one line here."""

from __future__ import annotations

from prostate_mim.datasets import (
    bids,
    fastmri,
    generic,
    msd,
    nci_isbi,
    picai,
    promise12,
    prostate158,
    prostate_zones,
    prostatex,
    qin,
    us_biopsy,
)
from prostate_mim.datasets.found import DataSet

_ALL: tuple[DataSet, ...] = (
    bids.DATASET,
    fastmri.DATASET,
    generic.DATASET,
    msd.DATASET,
    nci_isbi.DATASET,
    picai.DATASET,
    promise12.DATASET,
    prostate158.DATASET,
    prostate_zones.DATASET,
    prostatex.DATASET,
    qin.DATASET,
    us_biopsy.DATASET,
)

DATASETS: dict[str, DataSet] = {dataset.name: dataset for dataset in _ALL}
