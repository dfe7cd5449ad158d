"""A cluster without a worker: nodes come for a job, rows land, nodes go. Ray's own autoscaler and raylets."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cluster.growing import growing_head, run
from tests.integration import help

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]
UNITS = 8


def _job(folder: Path, workers: str) -> None:
    for number in range(UNITS):
        help.write_tar(folder / "raw" / f"{number}.tar", range(number * 4, number * 4 + 4))
    (folder / "job.yaml").write_text(
        f"table: {folder}/db/images\nsource: {{format: webdataset, uri: '{folder}/raw/*.tar', caption: txt}}\n"
        f"model: {{name: stub}}\ncommit: {{every_s: 1}}\nworkers: {{{workers}}}\n"
    )


def _nodes(address: str) -> int:
    """Beside the head, by the cluster's own table."""
    code = (
        "import ray, sys; ray.init(sys.argv[1], log_to_driver=False)\n"
        "print('NODES', sum(n['Alive'] for n in ray.nodes()) - 1)"
    )
    said = subprocess.run([sys.executable, "-c", code, address], capture_output=True, text=True, timeout=120)
    return int(next(line.split()[1] for line in said.stdout.splitlines() if line.startswith("NODES ")))


def test_from_zero_nodes_come_rows_land_and_nodes_go_and_where_none_can_come_it_is_later() -> None:
    two = {"resources": {"CPU": 2, "object_store_memory": 80_000_000}, "max_workers": 2}
    with growing_head({"two": two}, CLIPMILL_STUB_SLEEP_MS="500") as head:
        address = f"127.0.0.1:{head.port}"
        embed = [sys.executable, "-m", "clipmill", "embed", "job.yaml", "--address", address, "--json"]
        _job(head.folder, "gpus: 1, wait_s: 5")
        nobody = run(head, embed)
        _, err = nobody.communicate(timeout=240)
        assert nobody.returncode == 5, err
        assert "gave no worker room within 5 s: each needs 1 GPU and 1 CPU on one node" in err
        assert _nodes(address) == 0

        _job(head.folder, "units_in_flight: 1, max: 3")
        driver = run(head, embed)
        out, err = driver.communicate(timeout=400)
        assert driver.returncode == 0, err
        found = json.loads(out.splitlines()[-1])
        assert (found["units"], found["rows"], found["attempts_failed"]) == (UNITS, UNITS * 4, 0)
        assert found["workers"] >= 1
        assert "asking for one, to see what nodes there have" in err
        assert "for 2 CPUs on one node" not in err.split("nodes there have")[0]
        until_s = time.monotonic() + 120
        while _nodes(address):
            assert time.monotonic() < until_s, "a node stays that nobody uses"
            time.sleep(2)
