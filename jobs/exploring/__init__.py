"""What a table is good for beside search: facets, near-duplicates, export, evaluation, heads."""
