"""The precision of float32 products, for what trains and measures modules: hlfeat/precision.py under nn's name."""

from __future__ import annotations

from hlfeat.precision import float32_precision as float32_precision
