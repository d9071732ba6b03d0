"""Inputs of a run to an ordered list of clips: files, folders, lists, manifests, archives.

Public names: Inputs, collect_inputs.

    collect      the kinds in the order they are tried     rows          a row of a manifest to a clip
    base         what a kind is                            archives      tar archives
    paths        files, folders, lists of paths            tar_members   headers of a tar archive, damaged ones too
    manifests    tables, JSON lines, Kaldi folders
"""
