"""Untrusted bytes to pixels: decoding, turning, and the model's own resize and crop."""
