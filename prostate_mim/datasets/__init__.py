"""Public data sets: the folder as it was downloaded -> a manifest. One importer a file."""

from __future__ import annotations

from prostate_mim.datasets.catalogue import DATASETS
from prostate_mim.datasets.found import DataSet, Found, FoundRow, ImportOptions, Skipped
from prostate_mim.datasets.importing import ImportSummary, import_dataset

__all__ = ["DATASETS", "DataSet", "Found", "FoundRow", "ImportOptions", "ImportSummary", "Skipped", "import_dataset"]
