"""The reference vectors of the self-check that are kept from one start to the next, and when they are not believed."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from clipmill.schemas.errors import UserError
from clipmill.schemas.model import ModelSpec
from clipmill.workers.clip import known as known_module
from clipmill.workers.clip import load as load_module
from clipmill.workers.clip import selfcheck
from clipmill.workers.clip.engine import ClipEngine
from clipmill.workers.clip.kept import Kept
from clipmill.workers.load import load_engine, load_text_engine
from tests.conftest import NOBODY
from tests.models import save_checkpoint


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("models") / "vit", "vit")


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One entry for each time that reference vectors are computed."""
    times: list[str] = []

    def counted(compute: Callable[..., selfcheck.Vectors]) -> Callable[..., selfcheck.Vectors]:
        return lambda *given: (times.append(compute.__name__), compute(*given))[1]

    for name in ("reference_of_pictures", "reference_of_texts"):
        monkeypatch.setattr(selfcheck, name, counted(getattr(selfcheck, name)))
    return times


def load(folder: Path, precision: str = "auto", threads: int = 1) -> ClipEngine:
    engine = load_engine(ModelSpec(name=str(folder), precision=precision), device="cpu", threads=threads)
    assert isinstance(engine, ClipEngine)
    return engine


def kept(cache: Path) -> list[Path]:
    return sorted((cache / "clipmill" / "references").iterdir())


@pytest.mark.parametrize("native", [True, False], ids=["auto bf16", "fp32"])
def test_a_second_start_computes_no_reference(
    vit: Path, own_cache: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    monkeypatch.setattr("clipmill.workers.clip.build.native_bf16", lambda _: native)
    first = load(vit)
    told = first.self_check(None)
    assert len(computed) == 2
    (file,) = kept(own_cache)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    second = load(vit, threads=2 if native else 1)  # in fp32 sums depend on how many threads add
    assert second.self_check(None) == told  # to the last bit
    assert len(computed) == 2
    assert second.fingerprint == first.fingerprint
    assert np.array_equal(second.own_vectors().images_ND, first.own_vectors().images_ND)
    assert np.array_equal(second.own_vectors().texts_ND, first.own_vectors().texts_ND)


def test_what_an_engine_computes_is_compared_all_the_same(
    vit: Path, own_cache: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(vit, "fp32").self_check(None)
    engine = load(vit, "fp32")
    own = engine.own_vectors()
    wrong = selfcheck.Reference(images_ND=own.images_ND[::-1], texts_ND=own.texts_ND)
    monkeypatch.setattr(engine, "own_vectors", lambda: wrong)
    with pytest.raises(UserError, match=r"self-check: .* in fp32 has cosine"):
        engine.self_check(None)
    assert len(computed) == 4, "what was kept did not agree, so it was computed anew"


def _other_vectors(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[:32] + content[:31:-1])


def _others_may_write(file: Path) -> None:
    file.chmod(0o620)


def _in_a_folder_for_all(file: Path) -> None:
    file.parent.chmod(0o777)


def _somebody_elses(file: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a file away")
    os.chown(file, NOBODY, NOBODY)


def _a_link(file: Path) -> None:
    file.rename(file.parent.parent / "elsewhere")
    file.symlink_to(file.parent.parent / "elsewhere")


def _cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-4])


def _of_another_model(file: Path) -> None:
    file.rename(file.with_name("0" * 32 + file.name[32:]))


def _of_other_weights(file: Path) -> None:
    (file.parent / f"{KEPT.key}-{'b' * 32}").write_bytes(file.read_bytes())
    file.unlink()


DAMAGES = (
    _other_vectors,
    _others_may_write,
    _in_a_folder_for_all,
    _somebody_elses,
    _a_link,
    _cut_off,
    _of_another_model,
    _of_other_weights,
)
KEPT = Kept(key="1" * 32, num_images=1, num_texts=2, dim=3)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
def test_what_is_not_as_it_was_kept_is_not_read(own_cache: Path, damage: Callable[[Path], None]) -> None:
    rows = np.arange(9, dtype=np.float32).reshape(3, 3)
    weights = "a" * 64
    KEPT.write(weights, selfcheck.Reference(images_ND=rows[:1], texts_ND=rows[1:]))
    read = KEPT.read(weights)
    assert read is not None
    assert np.array_equal(read.images_ND, rows[:1])
    assert np.array_equal(read.texts_ND, rows[1:])
    damage(kept(own_cache)[0])
    assert KEPT.read(weights) is None
    assert KEPT.read("b" * 64) is None


def test_a_damaged_file_is_computed_anew(vit: Path, own_cache: Path, computed: list[str]) -> None:
    told = load(vit).self_check(None)
    _cut_off(kept(own_cache)[0])
    for _ in range(2):
        assert load(vit).self_check(None) == told
    assert len(computed) == 4


def test_weights_that_only_look_the_same_are_hashed(
    vit: Path, own_cache: Path, computed: list[str], tmp_path: Path
) -> None:
    """Another file of this size, name and time in the place of the one that was there: the hash tells them apart."""
    folder = save_checkpoint(tmp_path / "model", "vit")
    (file,) = folder.glob("*.safetensors")
    before = file.stat()
    told = load(folder).self_check(None)
    content = bytearray(file.read_bytes())
    content[-3:] = bytes([content[-3] ^ 1, *content[-2:]])
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = load(folder).self_check(None)
    assert again["identity"] != told["identity"]
    assert len(computed) == 4


def test_a_model_that_comes_to_be_fp32_is_built_no_oftener_the_second_time(
    vit: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []
    real = load_module.build_model
    monkeypatch.setattr(load_module, "build_model", lambda *given: (built.append("once"), real(*given))[1])
    monkeypatch.setattr(known_module, "build_model", load_module.build_model)
    monkeypatch.setattr("clipmill.workers.clip.build.native_bf16", lambda _: True)
    monkeypatch.setattr(selfcheck, "AUTO_MIN_COSINE", 1.1)
    for turn in (1, 2, 3):
        assert load(vit).fingerprint.provenance["precision"] == "fp32"
        assert len(built) == 2 * turn


@pytest.mark.parametrize("how", ["no home", "an empty home", "a file in the way"])
def test_where_nothing_can_be_kept_all_is_as_before(
    vit: Path, own_cache: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    if how == "no home":
        monkeypatch.setenv("XDG_CACHE_HOME", "")
        monkeypatch.setattr(Path, "home", _no_home)
    elif how == "an empty home":
        monkeypatch.setenv("XDG_CACHE_HOME", "")
        monkeypatch.setenv("HOME", "")
    else:
        own_cache.write_text("")
    for _ in range(2):
        assert load(vit).self_check(None)["min_cosine"] > 0.99
    assert len(computed) == 4


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_what_cannot_be_put_in_its_place_is_not_left_beside_it(own_cache: Path) -> None:
    """Each start left a file on a full disk too, where nothing is ever the oldest of too many."""
    (own_cache / "clipmill" / "references" / f"{KEPT.key}-{'a' * 32}").mkdir(parents=True)
    KEPT.write("a" * 64, selfcheck.Reference(images_ND=np.ones((1, 3)), texts_ND=np.ones((2, 3))))
    assert [file.is_dir() for file in kept(own_cache)] == [True]


def test_the_oldest_go(own_cache: Path) -> None:
    folder = own_cache / "clipmill" / "references"
    folder.mkdir(mode=0o700, parents=True)
    for number in range(70):
        (folder / f"old{number}").write_text("")
        os.utime(folder / f"old{number}", (number, number))
    KEPT.write("a" * 64, selfcheck.Reference(images_ND=np.ones((1, 3)), texts_ND=np.ones((2, 3))))
    names = {file.name for file in kept(own_cache)}
    assert names == {f"{KEPT.key}-{'a' * 32}", *(f"old{number}" for number in range(7, 70))}


def test_those_of_texts_alone_are_others(vit: Path, own_cache: Path, computed: list[str]) -> None:
    load(vit)
    for _ in range(2):
        load_text_engine(ModelSpec(name=str(vit)))
    assert len(kept(own_cache)) == 2
    assert len(computed) == 3
