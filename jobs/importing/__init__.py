"""Vectors that somebody else computed become a table like any other, and are shown to be of the model that is named."""
