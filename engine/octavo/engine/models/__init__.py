"""Models as data: what a decoder is (`spec`), how families describe theirs, and where weights come from."""
