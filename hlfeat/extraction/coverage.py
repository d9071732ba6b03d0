"""Which of the clips' sound the bands of a configuration leave out, and which bands have none, by sample rates alone.

A file of 48 kHz may have sound up to 24 kHz. Whether it has is not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from hlfeat.config.config import Config
from hlfeat.config.loading import config_from_dict, config_names, load_config
from hlfeat.errors import HlfeatError
from hlfeat.nn.build import build
from hlfeat.nn.summary import warnings_of

MARGIN = 1.25  # half of a sample rate and the end of the bands may differ by this factor: 8000 and 7040 Hz, say


def coverage_notes(config: Config, sample_rates: Mapping[int, int], files: bool = False) -> list[str]:
    """A line about sound above the bands with what would use it, and one about bands above all sound.

    Bands at chosen notes (`first_freq`) end where they do on purpose.

    Args:
        sample_rates: how many clips have files of each rate, in hertz.
        files: whether weights or statistics belong to the bands, which cannot be changed then.
    """
    end, clips = _end(config), sum(sample_rates.values())
    halves = {rate / 2: n for rate, n in sample_rates.items()}
    above = {half: n for half, n in halves.items() if half > MARGIN * end}
    below = {half: n for half, n in halves.items() if half < end / MARGIN}
    notes = []
    if above and getattr(config.frontend, "first_freq", None) is None:
        ways = [] if files else _ways(config, 2 * round(max(above)))
        more = f": {' or '.join(ways)} would use it" if ways else ""
        more = more or ("" if files else "; no shipped configuration of this kind of frontend would use it")
        notes.append(
            f"{sum(above.values())} of {clips} clips may have sound up to {max(above):.7g} Hz, but the bands end at "
            f"{end:.7g} Hz{more}"
        )
    if below:
        notes.append(
            f"{sum(below.values())} of {clips} clips have no sound above {max(below):.7g} Hz, so their bands from "
            f"there to {end:.7g} Hz are empty"
        )
    return notes


def _end(config: Config) -> float:
    """Where the bands end, in hertz."""
    return _range(config)[1]


def _range(config: Config) -> tuple[float, float]:
    return config.frontend.frequency_range(config.audio.sample_rate)


@lru_cache(maxsize=16)  # it builds modules, and a report and the log ask for the same
def _ways(config: Config, rate: int) -> list[str]:
    """Shipped configurations like this one, and settings of it, that use sound of this sample rate.

    Of those whose bands begin higher, it is said where.
    """
    settings, low = _settings(config, rate), _range(config)[0]
    alike = [
        f"{name} (from {_range(other)[0]:.7g} Hz)" if _range(other)[0] > low else name
        for name in config_names()
        if _covers(other := load_config(name), rate)
        and other.frontend.kind == config.frontend.kind
        and (not settings or _trains_alike(other, config))
    ]
    ways = [f"the shipped configuration {name}" for name in alike]
    return [*ways, f"the settings {' '.join(settings)}"] if settings else ways


def _covers(config: Config, rate: int) -> bool:
    return rate / 2 <= MARGIN * _end(config)


def _trains_alike(a: Config, b: Config) -> bool:
    """Whether two configurations of one kind of frontend have no stack, and the same compression."""
    compressions = {getattr(getattr(config.frontend, "compression", None), "kind", None) for config in (a, b)}
    return not a.stack and not b.stack and len(compressions) == 1


def _settings(config: Config, rate: int) -> list[str]:
    """Settings with which the bands go up to half of the rate; none where they do not follow from these."""
    frontend = config.frontend
    if frontend.kind == "spectrogram":
        settings = [f"audio.sample_rate={rate}", "frontend.n_fft=null", "frontend.n_bands=null"]
        keep = {"n_fft": frontend.n_fft, "n_bands": frontend.n_bands}
        settings = [s for s in settings if keep.get(s.partition(".")[2].partition("=")[0], 0) is not None]
    elif isinstance(getattr(frontend, "scale", None), tuple):
        return []
    else:
        settings = [f"audio.sample_rate={rate}", f"frontend.max_freq={rate / 2:.7g}"]
    try:
        wider = config_from_dict(config.model_dump(mode="json"), settings)
        doubts = len(list(warnings_of(build(wider)))) - len(list(warnings_of(build(config))))
    except HlfeatError:
        return []
    return settings if _covers(wider, rate) and doubts <= 0 else []
