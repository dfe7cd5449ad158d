"""Tars as webdataset and img2dataset write them, plain and compressed: members of one key are a sample."""
