"""One part of a run, or the whole, on the devices of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hlfeat.audio.clip import Clip
from hlfeat.config.config import Config
from hlfeat.extraction.multi_device import run_on_devices
from hlfeat.extraction.one_device import extract_on_device
from hlfeat.extraction.options import Limits, Options
from hlfeat.extraction.product import Product
from hlfeat.extraction.report import Report
from hlfeat.extraction.run import Hooks
from hlfeat.inputs.collect import Inputs
from hlfeat.storage.named_place import place_of
from hlfeat.storage.output_place import OutputPlace


@dataclass(frozen=True)
class Work:
    """What is made of which clips, in all parts. It can be pickled.

    Attributes:
        out: the output, a folder or a prefix of a bucket.
    """

    config: Config
    inputs: Inputs
    out: Path | OutputPlace
    limits: Limits
    product: Product

    @property
    def place(self) -> OutputPlace:
        """The output."""
        return place_of(self.out)

    @property
    def clips(self) -> Sequence[Clip]:
        """Of all parts."""
        return self.inputs.clips


def extract_part(work: Work, options: Options, hooks: Hooks) -> Report:
    """Do `options.part`: on one device in this process, on several in a process each."""
    task = partial(extract_on_device, work.config, work.inputs, work.place, work.limits, product=work.product)
    if len(options.devices) == 1:
        return task(options, hooks)
    work.product.prepare(work.config, options.weights, options.stats)  # raises an error once, and not in each process
    return Report.of_parts(run_on_devices(len(work.clips), task, options, hooks))
