"""Can the table be trusted? `jobs.verify` is the door, these are the checks; each is made from what is stored alone.

report    what was found            balance  the ledger against the rows and the rejects
rows      ids and stored values     sample   rows fetched again and embedded again
"""
