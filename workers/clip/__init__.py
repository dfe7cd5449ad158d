"""A CLIP model on this machine: its weights, its two towers made fast, and the proof that they are right."""
