"""Recipes for data sets: which rows of a table, step by step, the same ones each time, with a count after each."""
