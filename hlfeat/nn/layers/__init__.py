"""Layers of a stack, which follow the frontend. Each module registers its layers with build_layer (registry.py)."""
