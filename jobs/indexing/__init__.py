"""Building the indices of a table: `jobs.indexing.build` is the door.

plan       which vector index, from size and memory (pure)
vector     build, extend, merge; in segments when large     centroids  where its partitions lie, from a sample
segments   parts built apart, merged and committed as one   kmeans     the clustering
cluster    segments on the nodes of a Ray cluster           recall     what the index misses, measured
curves     how far it must be searched, measured            partitions  which one each row goes into
products   whether a GPU computes them                    on_device  how it does
scalar     ids, tags, kept metadata, full text              names      what an index is called
"""
