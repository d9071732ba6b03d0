"""Harmonic convolution: modules, the operation, and its two backends.

Public names: HarmonicConv2d, LogHarmonicConv2d, MixedHarmonicConv2d, harmonic_conv2d.
"""
