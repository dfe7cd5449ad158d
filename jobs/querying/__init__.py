"""Questions about the table: `jobs.querying.open` is the door, these are the rooms.

request    what is asked, checked          values    what people write in Python, understood
filters    tags and SQL, checked, as one predicate
encoder    words and pictures to vectors   roads     which road the vector search takes (pure)
curve      how far an index is searched, as stored
snapshot   one version of the table        nearest   the vector search, by that road
vectors    stored vectors as arrays        warm      those of a column in memory
hybrid     vector and full text, fused     table     the open table that ties them together
nothing    why an answer is empty          deadline  how long a query may take, for a server
"""
