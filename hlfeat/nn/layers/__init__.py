"""Layers of a stack, which follow the frontend."""
