"""Can the table be trusted? `jobs.verify` is the door, these are the checks; each is made from what is stored alone.

report    what was found             files    what the manifests name is there, whole
balance   ledger, rows and rejects   ids      there once
values    every row's own columns    tags     labels, scores; against the model where it is loaded
census    the source counted again
indices   files, answers, recall     sample   rows fetched again and embedded again
"""
