"""What nights could not fill of a set, of its heads' scores or of tags beside is weighed against what readers see."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from clipmill.jobs.committing.lease import FILL_KEY, Lease
from clipmill.jobs.migrating.beside import _beside
from clipmill.jobs.migrating.beside_derived import fill_columns
from clipmill.jobs.migrating.promote import dry_run
from clipmill.jobs.migrating.promote_gates import GateOptions
from clipmill.jobs.migrating.words import verdict_in_words
from clipmill.jobs.publishing.night import Gate, Night
from clipmill.jobs.publishing.set_gates import columns_gate, sets_gate
from clipmill.jobs.publishing.words import night_in_words
from clipmill.jobs.running.summary import sets_in_words
from clipmill.jobs.table import sets
from clipmill.jobs.verifying.status import rejects
from clipmill.schemas.job.nightly import Nightly
from tests.build import picture, tar
from tests.migrating.filling import SLUG, STORAGE, World, members
from tests.migrating.test_retag import Place
from tests.migrating.test_set_heads import fill as fill_head
from tests.migrating.test_set_heads import head
from tests.tables import TableOptions, append


def spoilt(world: World, name: str, seeds: range, count: int) -> None:
    """Rows of a tar whose first pictures are others by now."""
    world.embed(name, tar(members(seeds)))
    now = [
        (file, picture(seed + 500) if file.endswith(".jpg") else data)
        for seed in seeds[:count]
        for file, data in members(range(seed, seed + 1))
    ]
    world.put(f"{name}.tar", tar([*now, *members(seeds[count:])]))


def test_the_gate_weighs_a_set_against_what_readers_see(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.embed("a", tar(members(range(4))))
    first = world.tables.open()
    world.fill()
    whole = world.tables.open()
    world.embed("b", tar(members(range(4, 6))))

    def judge(live: Any, **section: Any) -> Any:
        return sets_gate(world.tables, world.tables.open(), live, Nightly(**section))

    assert sets_gate(world.tables, first, None, Nightly()) is None
    assert judge(first).passed  # readers see no set: there is nothing to lose
    fell = judge(whole)
    assert (fell.passed, fell.value, fell.before) == (False, pytest.approx(4 / 6), 1.0)
    assert "of 6 rows 2 are not done yet; `clipmill reembed` fills it, `clipmill drop` gives it up" in fell.sentence
    assert judge(whole, sets="leave") is None
    assert judge(whole, max_more_rejects=0.5).passed
    holder = Lease(world.tables, "other", "reembed", key=FILL_KEY)
    holder.take(poll_s=0.05)
    assert judge(whole).passed
    holder.release()
    world.fill()
    assert judge(whole).passed


def test_what_could_not_be_filled_is_told_apart_from_what_is_not_done_yet(tmp_path: Path) -> None:
    """By the night, by its page, by its gate and by the promotion, each with both numbers and the threshold."""
    world = World(tmp_path)
    world.embed("a", tar(members(range(30))))
    world.fill()
    whole = world.tables.open()

    def judge() -> Gate:
        found = sets_gate(world.tables, world.tables.open(), whole, Nightly())
        assert found is not None
        return found

    spoilt(world, "b", range(30, 40), 3)
    world.fill(run="night")
    few = judge()
    assert few.passed, "three of forty are too few to judge a share by, as for the rows themselves"
    assert "3 could not be filled (source_changed 3); too few to judge a share by" in few.sentence
    spoilt(world, "c", range(40, 50), 4)
    world.fill(run="later")
    world.embed("d", tar(members(range(50, 52))))
    found = judge()
    assert (found.passed, found.before, found.threshold) == (False, 1.0, 0.01)
    assert found.value == pytest.approx(43 / 52)
    why = "7 could not be filled (source_changed 7), 2 are not done yet"
    assert (
        f"82.69% of the rows have the set '{SLUG}', 100.00% in what readers see: at most 1.00% less" in found.sentence
    )
    assert f"of 52 rows {why}; `clipmill reembed` fills it, `clipmill reembed --again` tries" in found.sentence

    beside = asdict(_beside(sets.coverage(world.tables, world.tables.open(), SLUG), note="the weights are gone"))
    line = f"set '{SLUG}' of stub: 43 of 52 rows filled (0 now); {why}: the weights are gone"
    assert sets_in_words([beside], []) == [line]
    night = Night(run="r", table="/t", at="", status="refused", sets=[beside], gates=(found,), versions={"rows": 1})
    assert line in night_in_words(night).splitlines()
    assert line not in night_in_words(replace(night, status="nothing", sets=[{**beside, "left": 0}]))

    named = rejects(world.uri, STORAGE, slug=SLUG, limit=5)
    assert (named.num_rows, set(named["reason"].to_pylist())) == (5, {"source_changed"})
    assert named["id"][0].as_py().endswith("b.tar#00030.jpg")
    assert rejects(world.uri, STORAGE, slug=SLUG, reason="corrupt").num_rows == 0
    assert rejects(world.uri, STORAGE).num_rows == 0, "no sample was rejected"

    promotion = dry_run(world.uri, SLUG, STORAGE, GateOptions(min_overlap=0.0))
    assert promotion.blockers["coverage"] == f"43 of 52 rows are filled, 0.8269 is less than 0.999: {why}"
    assert "2 rows came or changed" in promotion.blockers["rows_changed"]
    assert f"43 of 52 rows have its vector (82.69%); {why}" in verdict_in_words(promotion).splitlines()
    world.fill(run="last")  # what is left now has been tried, and a share is all that stands in the way
    assert set(dry_run(world.uri, SLUG, STORAGE, GateOptions(min_overlap=0.0)).blockers) == {"coverage"}


def test_two_sets_that_fell_are_both_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    world.embed("a", tar(members(range(4))))
    world.fill()
    whole = world.tables.open()
    world.embed("b", tar(members(range(4, 6))))
    monkeypatch.setattr("clipmill.jobs.publishing.set_gates.sets_in", lambda schema: [SLUG, SLUG])
    found = sets_gate(world.tables, world.tables.open(), whole, Nightly())
    assert found is not None
    assert found.sentence.count("66.67% of the rows have the set") == 2


def test_scores_of_a_set_that_rows_lack_are_weighed(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.embed("a", tar(members(range(4))))
    world.fill()
    one = head(tmp_path, 16)
    fill_head(world, one)
    whole = world.tables.open()
    assert columns_gate(world.tables, whole, whole, Nightly()) is None
    world.embed("b", tar(members(range(4, 6))))
    world.fill(run="night")
    late = world.tables.open()
    found = columns_gate(world.tables, late, whole, Nightly())
    assert found is not None
    assert (found.name, found.passed, found.value, found.before) == ("columns", False, pytest.approx(4 / 6), 1.0)
    assert f"66.67% of the rows have a value in aesthetic__{SLUG}, 100.00% in what readers see" in found.sentence
    assert "of 6 rows 2 have none" in found.sentence
    assert columns_gate(world.tables, late, whole, Nightly(sets="leave")) is None
    first = columns_gate(world.tables, late, None, Nightly())
    assert first is not None
    assert first.passed


def test_tags_that_a_promotion_left_behind_are_no_nights_to_fill(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.retag(replace(place.things, beside="side"))
    whole = place.tables.open()
    append(place.uri, TableOptions(rows=60, start=300))
    found = columns_gate(place.tables, place.tables.open(), whole, Nightly())
    assert found is not None
    assert not found.passed
    assert "tags__side" in found.sentence
    stored = place.tables.open().schema.field("tags__side").metadata
    place.tables.open().update_field_metadata(
        {
            "tags__side": {
                "clipmill.vocabulary": stored[b"clipmill.vocabulary"]
                .decode()
                .replace('"weights_sha256": "', '"weights_sha256": "0')
            }
        }
    )
    assert columns_gate(place.tables, place.tables.open(), whole, Nightly()) is None
    (told,) = fill_columns(place.tables, "nightly", lambda _: None)
    assert "a set was promoted since" in told.note
