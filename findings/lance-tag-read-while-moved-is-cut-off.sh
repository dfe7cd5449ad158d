#!/usr/bin/env bash
# Lance on S3: whoever lists the tags of a dataset while somebody moves one gets "EOF while parsing an object".
#
# One would guess: an object of S3 is replaced whole, so a reader of a tag sees the version before or the version after.
# What happens: Lance asks for the object's length (HEAD) and then for so many of its bytes (GET). A tag that is moved between
#   the two, and whose file has become longer (version 12 for 1, a larger manifest), is cut off, and the listing ends with an
#   error of the JSON parser. All tags are read for it, so moving one that a reader does not ask for is enough.
# Why it matters: a tag such as `live` that is moved every night is what readers follow. A reader has to read again; the error
#   is a RuntimeError that names refs.rs, nothing that says "try again". On a local disk it was not seen in 68,000 listings.
# Versions: pylance 13.0.0, pyarrow 26.0.1, moto 5.2.5 as the server, boto3 1.43.117, Python 3.11. Seen 2026-11-28.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
  pylance==13.0.0 pyarrow==26.0.1 "moto[server]==5.2.5" boto3==1.43.117
cd "$work"
"$work/venv/bin/python" - <<'PY'
import collections
import logging
import sys
import threading
import time

import boto3
import lance
import pyarrow as pa
from moto.server import ThreadedMotoServer

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
url = f"http://{host}:{port}"
keys = {"aws_access_key_id": "none", "aws_secret_access_key": "none"}
boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys).create_bucket(Bucket="tables")
options = {"endpoint": url, "allow_http": "true", "region": "us-east-1", **keys}
uri = "s3://tables/t.lance"
for number in range(12):
    rows = pa.table({"n": list(range(number + 1))})
    lance.write_dataset(rows, uri, mode="append" if number else "create", storage_options=options)
dataset = lance.dataset(uri, storage_options=options)
dataset.tags.create("live", 1)
done = threading.Event()


def move() -> None:
    mine = lance.dataset(uri, storage_options=options)
    while not done.is_set():
        for version in (12, 1):
            mine.tags.update("live", version)


mover = threading.Thread(target=move)
mover.start()
seen: collections.Counter[str] = collections.Counter()
until = time.monotonic() + 15
while time.monotonic() < until:
    try:
        dataset.tags.list()
        seen["good"] += 1
    except RuntimeError as error:
        seen["cut off" if "EOF while parsing" in str(error) else str(error)] += 1
done.set()
mover.join()
server.stop()
print(f"listings of tags while one moves, in 15 seconds: {dict(seen)}")
sys.exit(not seen["cut off"] or not seen["good"])
PY
