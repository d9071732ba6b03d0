"""Objects at URLs (s3://, gs://, hf://, https://), read by fsspec, and tried again where a connection breaks.

Public names: none.

    urls        what is a URL, and what may be shown of it    objects   what there is, and its bytes
    retries     how often, and after how long a wait          fetch     the bytes of clips, ahead of the workers
    folders     what is right in a folder
"""
