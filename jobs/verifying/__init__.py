"""Can the table be trusted? `verify` is the door, `status` the short answer; each check uses only what is stored.

report    what was found             files    what the manifests name is there, whole
balance   ledger, rows and rejects   ids      there once
values    every row's own columns    tags     labels, scores; against the model where it is loaded
census    the source counted again   sample   rows fetched again and embedded again
indices   files, answers, recall     tombstones   what was deleted is not there
"""
