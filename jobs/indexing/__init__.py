"""Building the indices of a table: `jobs.indexing.build` is the door.

plan     which vector index, from size and memory (pure)    kmeans    its partitions
vector   build, extend, merge; in segments when large       cluster   segments on the nodes of a Ray cluster
scalar   ids, tags, kept metadata, full text                recall    what the index misses, measured
"""
