"""An architecture of our own, known to open_clip."""

import json
from collections.abc import Iterator
from pathlib import Path

import open_clip
import pytest

from tests.models import config


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test finds what another has kept, and none leaves anything with the user."""
    folder = tmp_path_factory.mktemp("cache") / "of-a-user"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def small_architecture(tmp_path: Path) -> Iterator[str]:
    """open_clip knows `clipmill-small-vit` as an architecture, without tags, during the test."""
    (tmp_path / "archs").mkdir()
    (tmp_path / "archs" / "clipmill-small-vit.json").write_text(json.dumps(config("vit")["model_cfg"]))
    open_clip.add_model_config(tmp_path / "archs")
    yield "clipmill-small-vit"
    open_clip.factory._MODEL_CONFIG_PATHS.remove(tmp_path / "archs")
    open_clip.factory._MODEL_CONFIGS.pop("clipmill-small-vit")
