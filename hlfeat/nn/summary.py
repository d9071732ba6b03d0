"""A table of an extractor's layers (shapes, parameters, cost, receptive field), and warnings about what looks wrong.

Costs are estimates: the multiply-adds of the convolutions and matrix products of one second of audio, and one for
every number that a norm, an activation, a pool or a compression handles. Harmonics beyond the axis are not computed,
and not counted. Savings by the symmetry of the filters are not taken into account.
"""

from __future__ import annotations

from collections.abc import Sequence

from hlfeat.config.config import Config
from hlfeat.nn.axes import crossed_rows
from hlfeat.nn.extractor import Extractor
from hlfeat.nn.layers.base import Features, Row, count_parameters


def summarise(cfg: Config, extractor: Extractor) -> list[Row]:
    """The frontend and every layer of the stack, in order."""
    first = frontend_row(cfg, extractor)
    return [first, *extractor.stack.summarise(first.after, "stack")]


def total_cost(rows: Sequence[Row]) -> float:
    """Multiply-adds of all layers, for one second of audio."""
    return sum(r.cost for r in rows)


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text, with a total."""
    head = ["layer", "", "channels", "bands", "frames/s", "parameters", "multiply-adds/s", "depends on"]
    cells = [
        [
            r.key,
            r.what,
            *map(str, (r.after.channels, r.after.bands, f"{r.after.rate:g}", r.parameters)),
            short(r.cost),
            r.after.depends_on(),
        ]
        for r in rows
    ]
    total = ["total", *[""] * 4, str(sum(r.parameters for r in rows)), short(total_cost(rows)), ""]
    lines = [head, *cells, total]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    left = (0, 1, 7)
    return "".join(
        "  ".join(
            f"{c:<{w}}" if i in left else f"{c:>{w}}" for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        + "\n"
        for line in lines
    )


def short(n: float) -> str:
    """A number to three digits: 12.3 M."""
    for unit in ("", " k", " M", " G"):
        if n < 999.5:
            return f"{n:.3g}{unit}"
        n /= 1000
    return f"{n:.3g} T"


def frontend_row(cfg: Config, extractor: Extractor) -> Row:
    """The frontend, with its compression."""
    frontend = extractor.frontend
    compression, beyond = frontend.compression_summary()
    kind = cfg.frontend.kind
    seconds = frontend.window_samples() / frontend.sample_rate
    after = Features(frontend.n_channels, frontend.n_bands, frontend.frame_rate, seconds, beyond)
    cost = frontend.multiply_adds() + after.numbers()
    return Row("frontend", f"{kind}, {compression}" if compression else kind, after, count_parameters(frontend), cost)


def warnings_of(extractor: Extractor) -> list[str]:
    """One line for each thing that looks wrong: filters out of order, harmonics read at the wrong places or nowhere.

    Layers are asked about the bands' real frequencies, whatever axis they are set to.
    """
    freqs = extractor.frontend.centre_freqs().cpu().double().numpy()
    warnings = list(extractor.stack.warnings(freqs, "stack"))
    crossed = crossed_rows(freqs.tolist())
    if crossed:
        bands = ", ".join(map(str, crossed[:5])) + (", ..." if len(crossed) > 5 else "")
        warnings.insert(0, f"frontend: bands are not in the order of their frequency: {bands} not above the one before")
    return warnings
