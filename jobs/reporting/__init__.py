"""What a person reads in the morning: a table or a night as figures, and as one HTML file that stands alone.

runs       what ran: rate, limit, cost             changes    what a run added, replaced and took away
contents   tags, scores, the map of the vectors    samples    pictures of rows and of rejects, bounded
table      all of a table                          night      all of a night
charts     shapes for the page                     page       figures to HTML
"""
