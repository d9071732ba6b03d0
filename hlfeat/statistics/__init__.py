"""Streaming moments of features, and the two files that keep them.

Public names: Statistics.

    moments              mean, variance, minimum, maximum     dataset_statistics   the file of `hlfeat stats`
    shard_statistics     the file beside each shard           fields               checks of both files
"""
