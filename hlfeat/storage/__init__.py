"""The feature directory: names, lock, shards, index, readers.

Public names: FeatureStore, collate.
"""
