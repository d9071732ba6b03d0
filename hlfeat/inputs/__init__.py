"""Inputs of a run to an ordered list of clips: files, folders, lists, manifests, archives, data sets.

Public names: Inputs, collect_inputs, load_audio.

    collect          the kinds in the order they are tried base             what a kind is
    root             what paths and ids are relative to    distinct_ids     no two clips with the same
    paths            files, folders, lists of paths        text_files       UTF-8 and UTF-16
    unfound          lists of which no path exists         loading          load_audio
    objects          objects at URLs, prefixes, patterns   urls             what is shown of URLs, and their errors
    archives         tar archives                          tar_members      headers of a tar archive, damaged ones too
    archive_headers  those of an archive at a URL          rows             a row of a manifest to a clip, good or bad
    tables           .csv and .tsv, as tools write them    columns          names of columns to what they mean
    manifests        JSON lines, Kaldi folders             metadata         other columns, in little memory
    parquet          Parquet tables with audio in them     tables_of_files  those with paths of audio files
    row_batches      their rows without the audio          audio_column     which of their columns is that of audio
    audio_folder     metadata.csv of Hugging Face          table_values     their other columns as JSON
"""
