"""Questions about the table: `jobs.querying.open` is the door, these are the rooms.

request    what is asked, checked          values    what people write in Python, understood
filters    tags and SQL, checked, as one predicate
encoder    words and pictures to vectors   roads     which road the vector search takes (pure)
curve      how far an index is searched, as stored
snapshot   one version of the table        nearest   the vector search, by that road
vectors    stored vectors as arrays        indexed   what lies in which partition of an index
hybrid     vector and full text, fused     phash     what looks the same, by perceptual hash
pages      of one ranking                  table     the open table that ties them together
nothing    why an answer is empty          deadline  how long a query may take, for a server
words      captions by their words         pieces    a filter's rows, some fragments at a time
parts      all rows, a batch at a time     lists     files that name rows
newer      columns of a later version      damaged   an index or a version whose files are gone
mask       a filter, told to Lance as rows versions  the version of a table that is read
at_hand/   what a server holds of all this in memory
"""
