"""A source that changes every day: tars, a folder of pictures, or lists that name pictures, in a bucket."""

import io
import random
from dataclasses import dataclass, field
from typing import Any

from tests.build import picture, tar
from tests.conftest import S3

SIZE = 12  # pictures of a shard
FIRST = 10  # shards of the first night; every day brings one and takes one, so that nights have equal work
GOLDEN = "golden"  # the shard that the golden set is about: no day touches it
PART_BYTES = 5 * 2**20  # the least that S3 takes as a part
SOURCES: dict[str, dict[str, Any]] = {
    "tars": {"format": "webdataset", "uri": "raw/*.tar", "caption": "txt"},
    "folder": {"format": "files", "uri": "raw/", "caption": "txt"},
    "lists": {"format": "manifest", "uri": "raw/*.csv", "image": "url", "caption": "caption"},
}


@dataclass
class Shards:
    """The source: seeds of pictures by shard, put into the bucket as tars, files or lists."""

    s3: S3
    kind: str
    seeds: dict[str, list[int]] = field(default_factory=dict)
    cut: str = ""  # the shard that is cut short, until it is replaced

    @property
    def source(self) -> dict[str, Any]:
        found = SOURCES[self.kind]
        return {**found, "uri": f"{self.s3.uri}/{found['uri']}"}

    def uri(self, name: str, seed: int) -> str:
        """Of a row."""
        paths = {
            "tars": f"raw/{name}.tar#{seed:05d}.jpg",
            "folder": f"raw/{name}/{seed:05d}.jpg",
            "lists": f"pictures/{seed:05d}.jpg",
        }
        return f"{self.s3.uri}/{paths[self.kind]}"

    def put(self, name: str, seeds: list[int], *, others: int = 0) -> None:
        """`others`: another picture under each name, caption and all."""
        self.delete(name)
        self.seeds[name] = list(seeds)
        if self.kind == "tars":
            self.s3.put(f"raw/{name}.tar", self._tar(seeds, others))
        elif self.kind == "folder":
            for seed in seeds:
                self.s3.put(f"raw/{name}/{seed:05d}.jpg", picture(seed + others))
                self.s3.put(f"raw/{name}/{seed:05d}.txt", f"picture {seed}".encode())
        else:
            urls = [self.s3.put(f"pictures/{seed:05d}.jpg", picture(seed)) for seed in seeds]
            lines = [f"{url},picture {seed}" for url, seed in zip(urls, seeds, strict=True)]
            self.s3.put(f"raw/{name}.csv", "\n".join(["url,caption", *lines, ""]).encode())

    def delete(self, name: str) -> None:
        self.seeds.pop(name, None)
        for key in self.s3.keys("raw/"):
            if key.startswith((f"raw/{name}.", f"raw/{name}/")):
                self.s3.client.delete_object(Bucket=self.s3.bucket, Key=key)

    def rename(self, old: str, new: str) -> None:
        seeds = self.seeds[old]
        self.delete(old)
        self.put(new, seeds)

    def upload_again(self, name: str) -> None:
        """The same pictures in two parts, of the size that S3 asks for: another etag."""
        if self.kind != "tars":
            self.put(name, self.seeds[name])
            return
        key, data = f"raw/{name}.tar", self._tar(self.seeds[name])
        data += bytes(max(0, PART_BYTES + 1 - len(data)))  # zeros after a tar's end are its padding
        made = self.s3.client.create_multipart_upload(Bucket=self.s3.bucket, Key=key)
        where = {"Bucket": self.s3.bucket, "Key": key, "UploadId": made["UploadId"]}
        parts = []
        for number, part in enumerate((data[:PART_BYTES], data[PART_BYTES:]), start=1):
            done = self.s3.client.upload_part(**where, PartNumber=number, Body=io.BytesIO(part))
            parts.append({"PartNumber": number, "ETag": done["ETag"]})
        self.s3.client.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})

    def truncate(self, name: str) -> None:
        """Some of its last pictures are missing; a tar ends in the middle of one."""
        seeds = self.seeds[name]
        if self.kind == "tars":
            data = self._tar(seeds)
            whole = self._tar(seeds[:-2])
            self.s3.put(f"raw/{name}.tar", data[: len(whole) - 1024])
            self.seeds[name] = seeds[:-2]
        else:
            self.put(name, seeds[:-2])
        self.cut = name

    def spoil_golden(self) -> None:
        """What the golden set is about shows something else from now on; of a list, some of its lines are gone."""
        if self.kind == "lists":
            self.put(GOLDEN, self.seeds[GOLDEN][: SIZE // 2])
        else:
            self.put(GOLDEN, self.seeds[GOLDEN], others=700_000)

    def mend_golden(self) -> None:
        self.put(GOLDEN, list(range(SIZE)))

    @staticmethod
    def _tar(seeds: list[int], others: int = 0) -> bytes:
        members = [
            (f"{s:05d}.{end}", data)
            for s in seeds
            for end, data in (("jpg", picture(s + others)), ("txt", f"picture {s}".encode()))
        ]
        return tar(members)


def first_day(shards: Shards) -> None:
    shards.mend_golden()
    for number in range(1, FIRST + 1):
        shards.put(f"first{number:02d}", [number * 100 + one for one in range(SIZE)])


def day(shards: Shards, rng: random.Random, night: int, *, cut: bool) -> None:
    """One shard comes, one is replaced, one uploaded again, one renamed, one deleted; with `cut` one is cut short, and
    the next day's replacement mends it. The number of shards and pictures stays."""
    names = sorted(name for name in shards.seeds if name not in (GOLDEN, shards.cut))
    rng.shuffle(names)
    again, renamed, gone, short = names[:4]
    replaced = shards.cut or names[4]
    shards.put(f"shard{night:02d}", [night * 1000 + number for number in range(SIZE)])
    kept = shards.seeds[replaced][: SIZE - 3]
    shards.put(replaced, [*kept, *(night * 1000 + 500 + number for number in range(SIZE - len(kept)))])
    shards.cut = ""
    shards.upload_again(again)
    shards.rename(renamed, f"renamed{night:02d}")
    shards.delete(gone)
    if cut:
        shards.truncate(short)
