"""Everything one trains with: frontends, harmonic convolutions, layers, and the modules a configuration describes.

Public names: EfficientLeaf, Leaf, LogMel, Spectrogram, LogTBN, PCEN, HarmonicConv2d, LogHarmonicConv2d,
MixedHarmonicConv2d, harmonic_conv2d, harmonise, LinearAxis, LogAxis, CentreAxis, Extractor, build,
parameter_groups, frame_mask.
"""
