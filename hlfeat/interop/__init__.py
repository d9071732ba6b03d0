"""Checkpoints of other programs in, models for other programs out.

Modules: leaf_checkpoint (published EfficientLEAF weights), export (torch.export and ONNX).
"""
