"""Inputs of a run to an ordered list of clips: files, folders, lists, manifests, archives, data sets.

Public names: Inputs, collect_inputs, load_audio.

    collect      the kinds in the order they are tried     rows          a row of a manifest to a clip, good or bad
    base         what a kind is                            columns       names of columns to what they mean
    root         what paths and ids are relative to        metadata      other columns, in little memory
    unfound      lists of which no path exists             text_files    UTF-8 and UTF-16
    paths        files, folders, lists of paths            objects       objects at URLs, prefixes, patterns
    loading      load_audio                                urls          what is shown of URLs, and their errors
    tables       .csv and .tsv, as tools write them        archives      tar archives
    manifests    JSON lines, Kaldi folders                 tar_members   headers of a tar archive, damaged ones too
    parquet      tables with audio in them                 table_values  their other columns as JSON
    audio_folder metadata.csv of Hugging Face              audio_column  which of their columns is that of audio
                                                           archive_headers   the same of one at a URL
"""
