#!/usr/bin/env bash
# s3fs: a key that holds "?versionId=" is cut there, and another object is read.
#
# One would guess: with `version_aware=False`, the default, a path is bucket and key, and any character of a key is part of
#   it: S3 allows "?" and "=".
# What happens: everything from "?versionId=" on is cut off and forgotten. `ls` lists the key, and `cat_file` of what was listed
#   reads the object whose key is the part before it; where there is none, it is "not found".
# Why it matters: keys made from addresses of the web (crawls, mirrors) hold query strings: the bytes of one object go by the
#   name of another, without an error. Give bucket and key to `call_s3` yourself.
# Versions: s3fs 2026.9.0, fsspec 2026.9.0, moto 5.2.5, Python 3.11. Seen 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check s3fs==2026.9.0 fsspec==2026.9.0 "moto[s3,server]==5.2.5"
cd "$work"
"$work/venv/bin/python" - <<'PY'
import logging
import sys

import s3fs
from moto.server import ThreadedMotoServer

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
files = s3fs.S3FileSystem(
    key="any", secret="any", endpoint_url=f"http://{host}:{port}", client_kwargs={"region_name": "us-east-1"}
)
KEY = "page?versionId=7.html"
files.call_s3("create_bucket", Bucket="crawl")
for key, body in ((KEY, b"the page that was meant"), ("page", b"another page")):
    files.call_s3("put_object", Bucket="crawl", Key=key, Body=body)

listed = f"crawl/{KEY}" in files.ls("crawl", refresh=True)
split = files.split_path(f"crawl/{KEY}")
try:
    read = files.cat_file(f"crawl/{KEY}").decode()
except OSError as error:
    read = type(error).__name__
direct = files.call_s3("get_object", Bucket="crawl", Key=KEY)
print(f"listed: {listed}; split into {split}; read: {read}; asked for by call_s3: {direct['ContentLength']} bytes")
server.stop()
sys.exit(not (listed and split == ("crawl", "page", None) and read == "another page"))
PY
