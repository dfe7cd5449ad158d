"""What a person hears before and after a promotion: what is in the way, what will be another, what to do about it."""

from dataclasses import replace

import pytest

from clipmill.jobs.cli import main as cli
from clipmill.jobs.indexing.build import IndexOptions, build_index
from clipmill.jobs.migrating.promote import ALREADY, back, dry_run, promote
from clipmill.jobs.migrating.promote_gates import GateOptions
from clipmill.jobs.migrating.retag import RetagOptions, retag
from clipmill.jobs.migrating.score import score
from clipmill.jobs.migrating.set_index import build_set_index
from clipmill.jobs.migrating.words import promotion_in_words
from clipmill.jobs.publishing.publish import publish
from clipmill.jobs.verifying.status import status
from clipmill.schemas.errors import EXIT_GATE_REFUSED, GateRefused, UserError
from tests.build import tar
from tests.committed import Killed, killer
from tests.migrating.filling import SLUG, STORAGE, World, members
from tests.migrating.test_promote import LOOSE, how, world
from tests.migrating.test_set_heads import head

__all__ = ["world"]


def test_who_is_refused_hears_the_names_and_both_numbers(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.embed("d", tar(members(range(30, 40))))
    assert cli.run(["promote", world.uri, SLUG]) == EXIT_GATE_REFUSED
    told = capsys.readouterr().err
    assert "is not promoted: rows_changed: 10 rows came or changed" in told
    assert "coverage: 24 of 34 rows are filled, 0.7059 is less than 0.999: 10 are not done yet" in told
    asked = ["promote", world.uri, SLUG, "--dry-run", "--min-overlap", "0", "--min-coverage", "0"]
    assert cli.run(asked) == EXIT_GATE_REFUSED
    assert "error: one thing stands in the way: rows_changed" in capsys.readouterr().err


def test_a_promotion_names_vocabularies_that_stay_on_the_model_before(world: World) -> None:
    (world.folder / "side.yaml").write_text("name: side\nlabels: [cat, dog]\n")
    retag(world.uri, RetagOptions(vocabulary=str(world.folder / "side.yaml"), beside="side"), STORAGE)

    def noted() -> list[str]:
        found = status(world.uri, STORAGE).vocabularies
        return [one["note"] for one in found if one["column"] == "tags__side"]

    assert noted() == [""]
    done = promote(world.uri, SLUG, STORAGE, LOOSE, how())
    (told,) = [note for note in done.notes if "tags__side" in note]
    assert "are those of another model, and new rows get none" in told
    assert f"clipmill retag {world.uri} --vocabulary FILE --as side" in told
    assert "nothing says that they are of the model in use" in noted()[0]
    with pytest.raises(UserError, match=f"the set '{SLUG}' is in use already"):
        dry_run(world.uri, SLUG, STORAGE, LOOSE)
    assert not [note for note in back(world.uri, STORAGE, how()).notes if "tags__side" in note]
    assert noted() == [""]


def test_rows_that_passed_no_gate_are_shown_to_nobody_by_a_promotion(world: World) -> None:
    rows = world.tables.open()
    rows.tags.create("live", rows.version)
    assert dry_run(world.uri, SLUG, STORAGE, LOOSE).blockers == {}
    world.embed("d", tar(members(range(30, 33))))
    world.fill(run="night")
    assert set(dry_run(world.uri, SLUG, STORAGE, LOOSE).blockers) == {"unpublished"}
    with pytest.raises(GateRefused, match="unpublished: 3 rows came since the version that readers see"):
        promote(world.uri, SLUG, STORAGE, LOOSE, how())
    world.tables.open().tags.update("live", world.tables.open().version)
    promote(world.uri, SLUG, STORAGE, LOOSE, how())
    world.embed("e", tar(members(range(40, 42))), bench=world.new)
    assert "2 rows that passed no gate are seen by readers with it" in back(world.uri, STORAGE, how()).notes


def test_nor_by_the_end_of_one_that_was_cut_off(world: World) -> None:
    rows = world.tables.open()
    rows.tags.create("live", rows.version)
    with pytest.raises(Killed):
        promote(world.uri, SLUG, STORAGE, LOOSE, how(killer("after_rename")))
    world.embed("d", tar(members(range(30, 33))), bench=world.new)  # a night, which the gate `vectors` refuses
    with pytest.raises(GateRefused, match="is in use, but 3 rows came since the version that readers see"):
        promote(world.uri, SLUG, STORAGE, LOOSE, how())
    assert world.tables.open(version="live").version == rows.version
    published = publish(world.uri, STORAGE, force=False, say=lambda _: None)
    assert (published.refused, published.overridden) == ((), ())
    assert world.tables.open(version="live").version == published.version > rows.version
    assert promote(world.uri, SLUG, STORAGE, LOOSE, how()).notes == [ALREADY]


def test_the_gates_wait_for_the_end_of_one_that_was_cut_off(world: World) -> None:
    """Plain clients would be without words. The config says how far it came."""
    rows = world.tables.open()
    rows.tags.create("live", rows.version)
    with pytest.raises(Killed):
        promote(world.uri, SLUG, STORAGE, LOOSE, how(killer("after_rename")))
    world.embed("d", tar(members(range(30, 33))), bench=world.new)
    (refused,) = publish(world.uri, STORAGE, force=False, say=lambda _: None).refused
    assert "`clipmill promote TABLE stub_16` ends a promotion that was cut off" in refused.sentence
    assert world.tables.open(version="live").version == rows.version


def test_scores_of_the_new_model_are_not_called_the_old_ones(world: World) -> None:
    """By `score --source vector__SLUG`, before the set is in use."""
    score(world.uri, replace(head(world.folder, 8), name="before"), STORAGE)
    score(world.uri, replace(head(world.folder, 16), name="after"), STORAGE, source=f"vector__{SLUG}")
    notes = "; ".join(promote(world.uri, SLUG, STORAGE, LOOSE, how()).notes)
    assert "'before' stay those on the model before" in notes
    assert "'after'" not in notes


def test_a_promotion_says_that_tags_will_be_others(world: World) -> None:
    retag(world.uri, RetagOptions(vocabulary="scenes"), STORAGE)
    (told,) = dry_run(world.uri, SLUG, STORAGE, LOOSE).notes
    assert told.startswith("the set has no tags, those in use of 'scenes': `clipmill retag TABLE --vocabulary FILE`")
    assert told in promotion_in_words(promote(world.uri, SLUG, STORAGE, LOOSE, how()))


def test_a_small_table_with_an_index_by_hand_gets_one_of_its_kind_for_the_set(world: World) -> None:
    """Its size asks for none, so `auto` would build none, and the promotion would be refused for ever."""
    build_index(world.uri, IndexOptions(kind="hnsw_sq", columns=("vector",)))
    loose = GateOptions(min_overlap=0.0, min_coverage=0.5, min_recall=0.0)
    told = dry_run(world.uri, SLUG, STORAGE, loose).blockers
    assert told == {
        "index": f"vector__{SLUG} has no index: clipmill index TABLE --column vector__{SLUG} --kind hnsw_sq"
    }
    assert build_set_index(world.tables, SLUG).startswith("IVF_HNSW_SQ")
    assert build_set_index(world.tables, SLUG).startswith("IVF_HNSW_SQ")  # again: what is there is kept
    assert dry_run(world.uri, SLUG, STORAGE, loose).blockers == {}
