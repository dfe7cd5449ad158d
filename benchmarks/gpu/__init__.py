"""What a GPU does with clipmill, measured in one go: `python -m benchmarks.gpu`; docs/gpu.md says how to read it."""
