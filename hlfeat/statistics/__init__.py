"""Streaming moments of features, and the two files that keep them.

Public names: Statistics.
"""
