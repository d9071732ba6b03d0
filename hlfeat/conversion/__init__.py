"""From a finished directory of features to other formats, without computing features again.

A Source reads the clips and compares their checksums. A Target writes shards of one format: `TARGETS` in `targets.py`
has them by name. `convert` is the loop between the two. It continues a conversion that was interrupted.
"""
