"""HTTP over an open table: `jobs.serving.serve` is the door.

settings  limits and the token          guard     what every request passes: token, host, size, headers, counts
models    requests and answers          api       search, facets, items
pictures  thumbnails and originals      runner    table work in threads, bounded in number and time
quick     a search past FastAPI         refusals  what is told where there is no answer
renewal  what is done where a version's files are gone
connections  how long a client may say nothing
"""
