"""Questions about the table: `jobs.querying.open` is the door, these are the rooms.

request    what is asked, checked          filters   tags and SQL, checked, as one predicate
encoder    words and pictures to vectors   roads     which road the vector search takes (pure)
snapshot   one version of the table        nearest   the vector search, by that road
warm       vectors in memory               remembered  what is kept from query to query
hybrid     vector and full text, fused     table     the open table that ties them together
nothing    why an answer is empty
"""
