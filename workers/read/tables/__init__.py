"""Rows of parquet files and Lance tables: the picture is a column's bytes, or a text names it."""
