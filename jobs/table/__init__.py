"""The Lance tables of one name: where they are, what stands in them, and what they were made with."""
