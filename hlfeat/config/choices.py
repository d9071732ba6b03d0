"""Words of the configuration that the command line lists too; imports nothing heavy."""

from __future__ import annotations

from typing import Literal

ShardFormat = Literal["npy", "pt"]
Dtype = Literal["float32", "float16"]
EdgeMode = Literal["zeros", "reflect", "context"]

# What features can be converted to: every format of shards, and formats of other programs.
ConversionFormat = Literal[ShardFormat, "parquet", "csv", "kaldi", "lhotse", "webdataset"]
