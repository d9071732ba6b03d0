"""A clip's bytes to samples at one rate.

Public names: Clip.
"""
