"""Jobs as processes with a cluster of their own: first, by the name of this folder, so that no other runs beside it."""
