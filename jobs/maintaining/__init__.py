"""What keeps a table small and clean: merging, old versions and orphans; and rows that a person had deleted."""
