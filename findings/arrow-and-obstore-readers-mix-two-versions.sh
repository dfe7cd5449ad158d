#!/usr/bin/env bash
# pyarrow, obstore: an object that is replaced while it is read from S3 gives the first half of the old one and the second of the new.
#
# One would guess: an opened file is one version of the object: every block is asked for with the ETag that was seen at
#   opening, so that what was replaced meanwhile is an error, as s3fs does.
# What happens: pyarrow's S3FileSystem and obstore's `open_reader` ask for ranges of the key, whatever lies there by now. A Parquet
#   file of vectors is opened, two of its four row groups are read, then last night's file gives way to tonight's, which has
#   the same rows and columns and so the same bytes in length: the other two are of the other model, without an error.
#   s3fs raises FileExpired, an OSError.
# Why it matters: vectors of two models in one table look right, and each distance between them means nothing. A job that
#   reads for hours meets the nightly upload sooner or later. Publish under new keys, or read through what sends If-Match.
# Versions: pyarrow 26.0.1, obstore 0.12.1, s3fs 2026.9.0, fsspec 2026.9.0, moto 5.2.5, numpy 2.4.6, Python 3.11. Seen 2026-11-30.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pyarrow==26.0.1 obstore==0.12.1 s3fs==2026.9.0 fsspec==2026.9.0 \
    "moto[s3,server]==5.2.5" numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PY'
import io
import logging
import sys

import numpy as np
import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import s3fs
from moto.server import ThreadedMotoServer
from obstore.store import S3Store
from pyarrow import fs

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
url, key, region = f"http://{host}:{port}", "vectors.parquet", "us-east-1"
files = s3fs.S3FileSystem(key="any", secret="any", endpoint_url=url, client_kwargs={"region_name": region})
arrow = fs.S3FileSystem(access_key="any", secret_key="any", endpoint_override=f"{host}:{port}", scheme="http", region=region)
keys = {"access_key_id": "any", "secret_access_key": "any"}
store = S3Store("night", endpoint=url, region=region, client_options={"allow_http": True}, virtual_hosted_style_request=False, **keys)
files.call_s3("create_bucket", Bucket="night")
GROUPS, EACH, DIM = 4, 10_000, 64


def publish(model):
    """A file of vectors all of whose numbers are the model's replaces the one that is there. Returns its length."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.full(GROUPS * EACH * DIM, model, np.float32)), DIM)
    sink = pa.BufferOutputStream()
    table = pa.table({"id": np.arange(GROUPS * EACH), "vector": vectors})
    pq.write_table(table, sink, row_group_size=EACH, compression="none", use_dictionary=False)
    body = sink.getvalue().to_pybytes()
    files.call_s3("put_object", Bucket="night", Key=key, Body=body)
    return len(body)


class Obstore(io.RawIOBase):
    """obstore's reader with whole reads and bytes, as pyarrow asks of a file."""

    def __init__(self):
        self.inner = obstore.open_reader(store, key)

    def read(self, size=-1):
        data = bytes(self.inner.read(size if size >= 0 else None))
        while size > len(data) and (more := bytes(self.inner.read(size - len(data)))):
            data += more
        return data

    def seek(self, *place):
        return self.inner.seek(*place)

    def tell(self):
        return self.inner.tell()

    def seekable(self):
        return True

    def readable(self):
        return True


def models(opened):
    """The model of each row group's vectors; the file is replaced after the second group."""
    publish(1.0)
    seen = []
    with opened() as source, pq.ParquetFile(source) as file:
        for group in range(GROUPS):
            if group == GROUPS // 2:
                publish(2.0)
            rows = file.read_row_group(group)
            assert rows["id"].to_pylist() == list(range(group * EACH, (group + 1) * EACH))
            seen += rows["vector"].combine_chunks().flatten().unique().to_pylist()
    return seen


print(f"two versions of {publish(1.0)} and {publish(2.0)} bytes")
mixed = [1.0, 1.0, 2.0, 2.0]
readers = {
    "pyarrow": (lambda: arrow.open_input_file(f"night/{key}"), mixed),
    "obstore": (Obstore, mixed),
    "s3fs": (lambda: files.open(f"night/{key}", cache_type="none"), "FileExpired"),
}
ok = True
for name, (opened, expected) in readers.items():
    try:
        seen = models(opened)
    except OSError as error:
        seen = type(error).__name__
    print(f"{name:<8} row groups are of model {seen}" if isinstance(seen, list) else f"{name:<8} {seen}")
    ok &= seen == expected
server.stop()
sys.exit(0 if ok else "readers of replaced objects do otherwise now")
PY
