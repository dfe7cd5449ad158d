"""Which of the heavy libraries a command loads: each is tenths of a second, torch alone more than two."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import lance
import pytest

from tests.build import picture, tar
from tests.tables import make_table

pytestmark = [pytest.mark.counted, pytest.mark.slow]

HEAVY = {
    *("torch", "torchvision", "timm", "transformers", "open_clip", "ray", "lance", "lancedb", "pyarrow", "numpy"),
    *("pandas", "PIL", "pydantic", "s3fs", "botocore", "fastapi", "uvicorn", "jinja2", "requests", "matplotlib"),
}
OF_A_TABLE = {"pydantic", "numpy", "pyarrow", "lance", "pandas"}  # lance brings pandas, where that is installed
_RUN = """
import sys
from clipmill.jobs.cli.main import run
code = run(sys.argv[1:])
print(code, *sys.modules, file=sys.stderr)
"""

# It answers until somebody ends it: here a thread that asked it once.
_SERVE = """
import json, os, sys, threading, time, urllib.request
from clipmill.jobs.cli.main import run

def ask():
    while True:
        try:
            answer = json.load(urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[-1]}/health", timeout=20))
        except OSError:
            answer = {"encoder": "loading"}
        if answer["encoder"] != "loading":
            print(0, *sys.modules, file=sys.stderr, flush=True)
            os._exit(0)
        time.sleep(0.1)

threading.Thread(target=ask, daemon=True).start()
run(sys.argv[1:])
"""


def loaded(*words: str, code: str = _RUN) -> set[str]:
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    code, *modules = done.stderr.splitlines()[-1].split()
    assert code == "0", done.stderr
    return HEAVY & set(modules)


def test_plan_loads_no_model_no_cluster_and_no_store_that_it_does_not_ask(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar([("1.jpg", picture(1))]))
    job = tmp_path / "job.json"
    source = {"format": "webdataset", "uri": f"{tmp_path}/*.tar"}
    job.write_text(json.dumps({"table": f"{tmp_path}/db/images", "source": source, "model": {"name": "stub"}}))
    assert loaded("plan", str(job), "--json") <= OF_A_TABLE - {"lance", "pandas"}, "there is no table yet"


def test_a_search_for_what_is_like_a_row_loads_no_model(tmp_path: Path) -> None:
    uri = make_table(tmp_path)
    some = lance.dataset(f"{uri}.lance").to_table(columns=["id"], limit=1)["id"][0].as_py()
    modules = loaded("search", uri, "--like", some, "--json")
    assert modules <= OF_A_TABLE


def test_a_server_loads_no_torch_no_cluster_and_no_store_that_it_does_not_ask(tmp_path: Path) -> None:
    uri = make_table(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    modules = loaded("serve", uri, "--port", str(port), code=_SERVE)
    assert {"fastapi", "uvicorn"} <= modules
    assert modules <= OF_A_TABLE | {"fastapi", "uvicorn"}
