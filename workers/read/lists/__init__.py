"""Lists of pictures that lie elsewhere: CSV, JSON lines, plain lines, parquet of links, COCO's JSON."""
