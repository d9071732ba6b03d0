"""The feature directory: names, lock, shards, index, readers.

Public names: FeatureStore, collate, FeatureBatch.

    layout             the names of all files                     description     hlfeat.yaml
    lock               one run at a time                          index_entry     a line of an index
    catalog            finished shards and failures               failure_record  a line of failures.jsonl
    formats            .npy and .pt                               records         JSON objects, one a line
    output_dir         where a run writes, under its lock         shard_plan      where shards end
    output_place       a folder or a bucket                       named_place     which of them a name means
    bucket_place       a prefix of a bucket as output             staging         the local folder that stands for it
    publisher          how files get there                        lease           the lock of a run in a bucket
    feature_dir        a directory as it lies, shard by shard     shard_writer    one shard, published when it is whole
    merge_statistics   statistics of whole directories            index           all clips as one compact table
    store              FeatureStore, for training                 collate         clips as a padded batch
    place              a directory here or at a URL               mirror          copies of the small files at a URL
    remote_file        features at a URL, as a file               remote_array    features at a URL, row by row
    index_lines        lines of an index, read when wanted        feature_format  what a format must be able to do
    open_shards        the shards that a store has open           shared_calls    what several threads ask for at once
"""
