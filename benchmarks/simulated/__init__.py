"""A cluster in compressed time, for `python -m benchmarks.simulate`."""
