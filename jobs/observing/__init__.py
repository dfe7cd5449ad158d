"""What a run shows while it goes on: figures for Prometheus, as a file and through Ray's exporter, and spans."""
