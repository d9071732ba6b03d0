"""Writes small SoundFont 2 files: samples, instruments and presets as the test describes them."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

KEYS, COARSE, FINE, SAMPLE, MODES, SCALE, ROOT = 43, 51, 52, 53, 54, 56, 58  # generators
MONO, RIGHT, LEFT = 1, 2, 4

Generators = Mapping[int, int]


@dataclass
class Recording:
    """A sample and its header: int16 [T]; `link` and `kind` are of stereo, `loop` counts from its start."""

    name: str
    wave: np.ndarray
    rate: int = 22050
    root: int = 60
    correction: int = 0
    link: int = 0
    kind: int = MONO
    loop: tuple[int, int] = (0, 0)


@dataclass
class Font:
    """Instruments: name -> zones. Presets: (bank, program from 0, name) -> numbers of instruments."""

    recordings: Sequence[Recording]
    instruments: Mapping[str, Sequence[Generators]]
    presets: Mapping[tuple[int, int, str], Sequence[int]]
    left_out: set[str] = field(default_factory=set)  # chunks
    additional: Mapping[str, bytes] = field(default_factory=dict)  # chunk -> data at its end

    def write(self, path: Path) -> Path:
        path.write_bytes(self.bytes())
        return path

    def bytes(self) -> bytes:
        pool, headers = b"", b""
        for r in self.recordings:
            start = len(pool) // 2
            pool += r.wave.astype("<i2").tobytes()
            place = (start, len(pool) // 2, start + r.loop[0], start + r.loop[1])
            headers += struct.pack("<20s5IBbHH", r.name.encode(), *place, r.rate, r.root, r.correction, r.link, r.kind)
            pool += bytes(2 * 46)  # silence between samples, section 7.10
        headers += struct.pack("<20s26x", b"EOS")
        inst, ibag, igen = self.tables({(name,): zones for name, zones in self.instruments.items()})
        phdr, pbag, pgen = self.tables(
            {
                (name, program, bank): [{41: i} for i in numbers]
                for (bank, program, name), numbers in self.presets.items()
            }
        )
        tables = {
            "phdr": phdr, "pbag": pbag, "pmod": bytes(10), "pgen": pgen, "inst": inst, "ibag": ibag,
            "imod": bytes(10), "igen": igen, "shdr": headers,
        }  # fmt: skip
        pdta = b"".join(self.chunk(name, data) for name, data in tables.items())
        info = self.chunk("INAM", b"odd")  # of odd length: a byte follows that is not counted
        sdta = self.chunk("smpl", pool)
        lists = [("INFO", info), ("sdta", sdta), ("pdta", pdta)]
        body = b"sfbk" + b"".join(self.chunk("LIST", kind.encode() + data) for kind, data in lists)
        return self.chunk("RIFF", body)

    def chunk(self, name: str, data: bytes) -> bytes:
        if name in self.left_out:
            return b""
        data += self.additional.get(name, b"")
        return name.encode() + struct.pack("<I", len(data)) + data + bytes(len(data) % 2)

    @staticmethod
    def tables(entries: Mapping[tuple, Sequence[Generators]]) -> tuple[bytes, bytes, bytes]:
        """Headers, bags and generators, each closed by a record that ends the last entry."""
        heads, bags, generators = b"", b"", b""

        def head(name: str, *numbers: int) -> bytes:
            data = struct.pack("<20s", name.encode()) + struct.pack(f"<{len(numbers)}H", *numbers)
            return data + bytes(12 if len(numbers) == 3 else 0)

        for entry, zones in entries.items():
            heads += head(*entry, len(bags) // 4)
            for zone in zones:
                bags += struct.pack("<HH", len(generators) // 4, 0)
                generators += b"".join(struct.pack("<HH", k, v & 0xFFFF) for k, v in zone.items())
        last = [0] * (len(next(iter(entries))) - 1)
        heads += head("EOI", *last, len(bags) // 4)
        bags += struct.pack("<HH", len(generators) // 4, 0)
        return heads, bags, generators + bytes(4)


def tone(hertz: float, seconds: float = 0.4, rate: int = 22050) -> np.ndarray:
    """A tone with four partials: int16 [T]."""
    t = np.arange(round(seconds * rate)) / rate
    return np.round(6000 * sum(np.sin(2 * np.pi * k * hertz * t) / k for k in (1, 2, 3, 4))).astype(np.int16)
