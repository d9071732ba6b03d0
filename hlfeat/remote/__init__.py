"""Objects at URLs (s3://, gs://, hf://, https://), read by fsspec, and tried again where a connection breaks.

Nothing here is public.

    urls        what is a URL, and what may be shown of it    objects      what there is, and its bytes
    errors      what exceptions of file systems mean          transfer     bytes as they come, and go on where cut
    retries     how often, and after how long a wait          fetch        the bytes of clips, ahead of the workers
    systems     fsspec's file systems                         waiting      for fsspec's thread, until the run stops
    folders     what is right in a folder                 s3_writes    objects that are written on conditions
    tables      rows of tables                            ranged_file  an object as a file to seek in
"""
