"""Arguments to an ordered list of clips: files, folders, lists, manifests, archives.

Public names: Inputs, collect_inputs.
"""
