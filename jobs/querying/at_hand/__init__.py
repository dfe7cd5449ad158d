"""What a server holds of one version of its table, so that a question reads next to nothing: `fill` puts it there.

warm         a column's vectors            vector_file  where they lie as they are stored
cells        in the partitions' order      sketch       and in a byte a value, compared first
tags         which rows have which         marked       which rows pass a filter, and how they lie
rows         what a person reads of a row  conditions   which rows pass a filter of whole numbers
shared       all of it once, for several processes
"""
