"""Warnings about modules that can be built but look wrong: bands out of order, and what each layer says of itself."""

from __future__ import annotations

from hlfeat.errors import AxisError
from hlfeat.nn.axes import centre_axis
from hlfeat.nn.extractor import Extractor


def warnings_of(extractor: Extractor) -> list[str]:
    """One line for each thing that looks wrong: filters out of order, harmonics read at the wrong places or nowhere.

    Layers are asked about the bands' real frequencies, whatever axis they are set to.
    """
    freqs = extractor.frontend.centre_freqs()
    try:
        centre_axis(freqs)
    except AxisError as e:
        return [f"frontend: bands are not in the order of their frequency: {e}"]
    return list(extractor.stack.warnings(freqs.double().numpy(), "stack"))
