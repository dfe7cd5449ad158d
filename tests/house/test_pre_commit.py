"""The hooks that CONTRIBUTING.md asks for run from .venv alone, pass on what is here, and find what they are for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ".pre-commit-config.yaml"
PLANTED = {
    "large-files": ("large.bin", "x" * 600_000),
    "private-keys": ("key.txt", "-----BEGIN " + "RSA PRIVATE KEY-----\n"),
    "merge-conflicts": ("notes.md", "<<<<<<" + "< mine\na\n======" + "=\nb\n>>>>>>" + "> theirs\n"),
    "yaml": ("job.yaml", "table: [db\n"),
    "ruff": ("unused.py", "import os\n"),
    "ruff-format": ("format.py", "x = ( 1 )\n"),
}


def hooks(folder: Path, home: Path) -> "subprocess.CompletedProcess[str]":
    pytest.importorskip("pre_commit")
    environment = {**os.environ, "PRE_COMMIT_HOME": str(home)}
    command = [sys.executable, "-m", "pre_commit", "run", "--all-files", "--color=never"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True)


def test_what_is_here_passes(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists() or not (ROOT / ".venv/bin/pre-commit").is_file():
        pytest.skip("not a git checkout in which `make install` was run")
    done = hooks(ROOT, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Passed") == len(PLANTED)


def test_each_hook_finds_what_it_is_for(tmp_path: Path) -> None:
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "-q")
    shutil.copy(ROOT / CONFIG, folder)
    (folder / ".venv").symlink_to(Path(sys.executable).parent.parent)
    (folder / ".gitignore").write_text(".venv\n")
    for name, text in PLANTED.values():
        (folder / name).write_text(text)
    git(folder, "add", "-A")
    done = hooks(folder, tmp_path / "home")
    assert done.returncode == 1, done.stdout + done.stderr
    for hook, (name, _) in PLANTED.items():
        said = done.stdout.partition(f"- hook id: {hook}\n")[2].partition("- hook id:")[0]
        assert name in said, f"{hook} did not find {name}:\n{done.stdout}"
