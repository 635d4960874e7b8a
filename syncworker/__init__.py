"""Keeps an S3 bucket an exact mirror of a local folder."""

__version__ = "0.1.0"
