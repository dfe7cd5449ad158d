"""Questions about the table: `jobs.query` is the door, these are the rooms.

request    what is asked, checked          filters   tags and SQL, checked, as one predicate
encoder    words and pictures to vectors   nearest   which road the vector search takes
hybrid     vector and full text, fused     table     the open table that ties them together
"""
