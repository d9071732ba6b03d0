"""The formats of conversions: a class each. A new format is a class, a line here, and its name in config/choices.py."""

from __future__ import annotations

from hlfeat.conversion.csv_table import CsvTable
from hlfeat.conversion.features import FeatureTarget
from hlfeat.conversion.kaldi import KaldiArchives
from hlfeat.conversion.lhotse_cuts import LhotseCuts
from hlfeat.conversion.parquet import ParquetTable
from hlfeat.conversion.target import Target
from hlfeat.conversion.web_dataset import WebDataset
from hlfeat.storage.formats import FORMATS

TARGETS: dict[str, type[Target]] = {
    **dict.fromkeys(FORMATS, FeatureTarget),  # every format of shards
    "parquet": ParquetTable,
    "csv": CsvTable,
    "kaldi": KaldiArchives,
    "lhotse": LhotseCuts,
    "webdataset": WebDataset,
}
