"""Everything one trains with: frontends, harmonic convolutions, layers, and the modules a configuration describes.

Public names: EfficientLeaf, Leaf, LogMel, Spectrogram, LogTBN, PCEN, RelativeLog, HarmonicConv2d,
LogHarmonicConv2d, MixedHarmonicConv2d, harmonic_conv2d, init_salience_, harmonise, LinearAxis, LogAxis, CentreAxis,
Extractor, build, parameter_groups, frame_mask, pitch, PitchTrack.
"""
