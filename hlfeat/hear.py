"""The common API of the HEAR benchmark (hearbenchmark.com/hear-api.html): embeddings of time stamps and of scenes.

`hear-validator hlfeat.hear` and heareval call `load_model`, `get_timestamp_embeddings` and `get_scene_embeddings`. The
embedding of a frame is its features, channels and bands side by side. The embedding of a sound is their mean and
standard deviation over time: for log energies, the spectral envelope and how much it changes.
"""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from hlfeat.config.loading import DEFAULT_CONFIG
from hlfeat.errors import ConfigError
from hlfeat.nn.build import build
from hlfeat.nn.extractor import Extractor

log = logging.getLogger("hlfeat")

WEIGHTS = (".safetensors", ".pt", ".pth")
RATES = (16000, 22050, 32000, 44100, 48000)  # hertz, of the benchmark's data
LONGEST_HOP = 50.0  # ms, the benchmark's advice
BATCH_SECONDS = 64.0  # of audio computed at once, unless one sound is longer


class Embedder(nn.Module):
    """An extractor with the attributes that the API asks for.

    Shape: x [n_sounds, n_samples] -> float32 [n_sounds, frames, timestamp_embedding_size].

    Attributes:
        sample_rate: of the audio, in hertz.
        timestamp_embedding_size: channels x bands.
        scene_embedding_size: twice that.
    """

    def __init__(self, extractor: Extractor) -> None:
        super().__init__()
        self.extractor = extractor
        self.sample_rate = extractor.sample_rate
        self.timestamp_embedding_size = extractor.n_channels * extractor.n_bands
        self.scene_embedding_size = 2 * self.timestamp_embedding_size

    @property
    def hop(self) -> float:
        """Milliseconds from frame to frame."""
        return 1000 * self.extractor.hop / self.sample_rate

    def timestamps(self, samples: int) -> Tensor:
        """The centres of the frames of a sound with this number of samples, in milliseconds: [frames].

        A last frame that pools the remaining frames may be centred past the end. It is left out, unless it is alone.
        """
        n = self.extractor.num_frames(samples)
        first = 1000 * self.extractor.first_centre / self.sample_rate
        centres = first + self.hop * torch.arange(n, dtype=torch.float64)
        return centres[: max(1, int((centres <= 1000 * samples / self.sample_rate).sum()))]

    def forward(self, x: Tensor) -> Tensor:
        return self.extractor(x).flatten(1, 2).transpose(1, 2).float()  # type: ignore[no-any-return]


def load_model(model_file_path: str = "") -> Embedder:
    """Load a model, in eval mode, on the CPU.

    Args:
        model_file_path: weights (`.safetensors`, `.pt`) with their configuration beside them, under the same name with
            `.yaml`, or as `config.yaml`; or a configuration, by path or by name; empty for the default one.

    Raises:
        ConfigError: configuration or weights are missing, or do not fit.

    Example:
        >>> import torch
        >>> from hlfeat import hear
        >>> model = hear.load_model("log-mel")
        >>> model.sample_rate, model.timestamp_embedding_size, model.scene_embedding_size
        (16000, 80, 160)
    """
    path = Path(model_file_path)
    if path.suffix in WEIGHTS:
        embedder = Embedder(build(_configuration_beside(path), weights=path))
    else:
        embedder = Embedder(build(model_file_path or DEFAULT_CONFIG))
        if embedder.extractor.stack.is_random():
            log.warning("%s: no weights: those of the stack are drawn at random", model_file_path)
    if embedder.sample_rate not in RATES:
        log.warning("HEAR's data has the rates %s, not %d Hz", ", ".join(map(str, RATES)), embedder.sample_rate)
    if embedder.hop > LONGEST_HOP:
        log.warning("HEAR advises %g ms from frame to frame at most, not %g", LONGEST_HOP, embedder.hop)
    return embedder.eval()


def get_timestamp_embeddings(audio: Tensor, model: Embedder) -> tuple[Tensor, Tensor]:
    """Embeddings at regular intervals, and the times in milliseconds on which they are centred; without gradients.

    Shape: audio [n_sounds, n_samples] in -1 to 1, at the model's rate -> float32 [n_sounds, n, size], [n_sounds, n].

    Raises:
        ValueError: audio of another shape or type.

    Example:
        >>> import torch
        >>> from hlfeat import hear
        >>> embeddings, times = hear.get_timestamp_embeddings(torch.zeros(2, 16000), hear.load_model("log-mel"))
        >>> embeddings.shape, times[0, :3].tolist()
        (torch.Size([2, 100, 80]), [0.0, 10.0, 20.0])
    """
    batches = _batches(audio, model)
    stamps = model.timestamps(audio.shape[1])
    with torch.no_grad():
        embeddings = torch.cat([model(x)[:, : len(stamps)] for x in batches])
    return embeddings, stamps.float().to(embeddings.device).repeat(len(audio), 1)


def get_scene_embeddings(audio: Tensor, model: Embedder) -> Tensor:
    """One embedding for each sound: mean and standard deviation of its features over time; without gradients.

    Shape: audio [n_sounds, n_samples] in -1 to 1, at the model's rate -> float32 [n_sounds, size].

    Raises:
        ValueError: audio of another shape or type.

    Example:
        >>> import torch
        >>> from hlfeat import hear
        >>> hear.get_scene_embeddings(torch.zeros(2, 16000), hear.load_model("log-mel")).shape
        torch.Size([2, 160])
    """
    scenes = []
    with torch.no_grad():
        for x in _batches(audio, model):
            deviation, mean = torch.std_mean(model(x), dim=1, correction=0)  # 0: one frame deviates by zero
            scenes.append(torch.cat([mean, deviation], dim=1))
    return torch.cat(scenes)


def _batches(audio: Tensor, model: Embedder) -> list[Tensor]:
    """Split the sounds into batches of at most BATCH_SECONDS, in float32, on the model's device."""
    if audio.dim() != 2 or audio.shape[1] == 0 or not audio.is_floating_point():
        raise ValueError(
            f"expected audio [n_sounds, n_samples] in floating point, got {audio.dtype} {list(audio.shape)}"
        )
    device = next(itertools.chain(model.parameters(), model.buffers())).device
    count = max(1, int(BATCH_SECONDS * model.sample_rate / audio.shape[1]))
    return [x.to(device, torch.float32) for x in torch.split(audio, count)]


def _configuration_beside(weights: Path) -> Path:
    """The configuration file beside a file of weights."""
    places = (weights.with_suffix(".yaml"), weights.with_name("config.yaml"))
    for place in places:
        if place.is_file():
            return place
    raise ConfigError(f"{weights}: expected the weights' configuration in {places[0]} or {places[1]}")
