"""Builds what is published, into a folder: clipmill's sdist and wheel, and the wheel of clipmill-client.

    python deploy/wheels.py dist          (or `make wheels`)

Both are built from a copy, so that nothing is left in the working tree, and clipmill's wheel is built from its sdist,
so that the sdist is known to be whole. No network: the build backend is the one of this environment.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("clipmill", "jobs", "workers", "schemas")
FILES = ("LICENSE", "README.md", "pyproject.toml")


def copy_tree(into: Path, pyproject: Path) -> None:
    """The sources as they lie in the repository, links included."""
    for name in FOLDERS:
        shutil.copytree(ROOT / name, into / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, into / name)
    shutil.copy(pyproject, into / "pyproject.toml")


def build(out: Path) -> list[Path]:
    """The three files, new ones first removed from `out` under the same names."""
    if not (ROOT / "clipmill/jobs").is_dir():
        sys.exit("error: clipmill/jobs is no link here, and wheels would be empty\nhint: clone with core.symlinks=true")
    out.mkdir(parents=True, exist_ok=True)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"
    command = [uv, "build", "--quiet", "--no-build-isolation", "--python", sys.executable, "--out-dir", str(out)]
    for pyproject, what in ((ROOT / "pyproject.toml", []), (ROOT / "deploy/client.toml", ["--wheel"])):
        with tempfile.TemporaryDirectory() as folder:
            copy_tree(Path(folder), pyproject)
            subprocess.run([*command, *what, folder], check=True)
    return sorted(p for p in out.iterdir() if p.name[0] != "." and before.get(p) != p.stat().st_mtime_ns)


if __name__ == "__main__":
    for path in build(Path(sys.argv[1] if len(sys.argv) > 1 else "dist")):
        print(path)
