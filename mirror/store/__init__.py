"""Bytes and facts on disk: content-addressed files, ``refs/`` beside them, an index of both."""
