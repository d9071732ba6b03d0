"""Objects at URLs (s3://, gs://, hf://, https://), read by fsspec, and tried again where a connection breaks.

urls        what is a URL, and what may be shown of it    objects   what there is, and its bytes
retries     how often, and after how long a wait          fetch     the bytes of clips, ahead of the workers
s3_writes   objects that are written on conditions
"""
