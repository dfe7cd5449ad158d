"""A store that answers 100 ms late, over connections that carry half of what the units need, costs them next to
nothing: reading runs ahead on several connections, beside the model."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.road import Road
from tests.build import noise, picture, tar
from tests.conftest import S3
from tests.integration.help import job
from tests.slow_wire import SlowWire

pytestmark = [pytest.mark.slow, pytest.mark.s3]

LATENCY_S = 0.1
SLEEP_MS = 40  # of the stub for each picture: with two decode threads a job takes 20 ms a sample
SAMPLES = 360
PADDED_BYTES = 250_000  # a JPEG may carry bytes behind its end


@pytest.fixture
def wire(s3: S3) -> Iterator[SlowWire]:
    with SlowWire(s3.endpoint).running() as running:
        yield running


def members(seed: int) -> tuple[bytes, bytes]:
    image = picture(seed)
    return image + noise(seed, PADDED_BYTES - len(image)), f"picture {seed}".encode()


def as_tars(s3: S3) -> dict[str, Any]:
    per_tar = SAMPLES // 4
    for number in range(4):
        made: list[tuple[str, bytes]] = []
        for seed in range(number * per_tar, (number + 1) * per_tar):
            image, text = members(seed)
            made += [(f"{seed:05d}.jpg", image), (f"{seed:05d}.txt", text)]
        s3.put(f"tars/{number}.tar", tar(made))
    return {"format": "webdataset", "uri": f"{s3.uri}/tars/*.tar", "caption": "txt"}


def as_files(s3: S3) -> dict[str, Any]:
    for seed in range(SAMPLES):
        image, text = members(seed)
        s3.put(f"files/{seed:05d}.jpg", image)
        s3.put(f"files/{seed:05d}.txt", text)
    return {"format": "files", "uri": f"{s3.uri}/files/", "caption": "txt"}


@pytest.mark.parametrize("lay_out", [as_tars, as_files])
def test_latency_does_not_show(
    tmp_path: Path, s3: S3, wire: SlowWire, monkeypatch: pytest.MonkeyPatch, lay_out: Any
) -> None:
    monkeypatch.setenv("CLIPMILL_STUB_SLEEP_MS", str(SLEEP_MS))
    source = lay_out(s3)

    near = wire.latency_s, wire.bytes_per_s

    def working_s(name: str) -> float:
        storage = {"endpoint_url": wire.endpoint, "region": "us-east-1"}
        road = Road.build(job(tmp_path / name, source, storage=storage), device="cpu", threads=2)
        start = time.monotonic()
        receipts = road.run(road.units)
        assert sum(receipt.written for receipt in receipts) == SAMPLES
        return time.monotonic() - start

    for again in range(3):  # one that is busy for a moment takes longer, near or far
        wire.latency_s, wire.bytes_per_s = near
        near_s = working_s(f"near{again}")
        wire.latency_s, wire.bytes_per_s = LATENCY_S, PADDED_BYTES * 1000 / (SLEEP_MS / 2) / 2
        far_s = working_s(f"far{again}")
        print(f"{near_s:.1f} s became {far_s:.1f} s")
        if far_s < 1.25 * near_s:
            break
    assert far_s < 1.25 * near_s, f"{near_s:.1f} s became {far_s:.1f} s"
