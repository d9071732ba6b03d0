"""What a training script needs beside modules: what clips are labelled with, and which of them it is tested on.

Public names: ClipLabel, read_labels, split_groups.
"""
