"""Measurements: frontends, harmonic convolution, and the whole pipeline."""
