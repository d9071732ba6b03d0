"""Waveforms to time-frequency features.

Public names: EfficientLeaf, Leaf, LogMel, Spectrogram, LogTBN, PCEN.
"""
