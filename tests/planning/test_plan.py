"""Planning is pure: what is done stays done whatever is added around it, and replacements add up."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from clipmill.jobs.planning.plan import make_plan
from clipmill.jobs.table.ledger import Ledger
from clipmill.schemas.unit.receipts import LedgerState
from tests.committed import entry, unit


def ledger_of(*entries: object) -> Ledger:
    return {e.unit_id: e for e in entries}  # type: ignore[attr-defined]


def committed(unit_id: str, uri: str, **changes: object):  # type: ignore[no-untyped-def]
    return replace(entry(unit_id, "r", 1, uri=uri), table_version=1, **changes)


def test_a_first_plan_does_everything() -> None:
    plan = make_plan([unit("a"), unit("b")], {})
    assert [u.unit_id for u in plan.todo] == ["a", "b"]
    assert (plan.new, plan.changed, plan.done, plan.gone) == (2, 0, (), ())


def test_samples_of_a_plan_are_their_sum_or_unknown() -> None:
    counted = [replace(unit(name), num_samples=count) for name, count in (("1", 3), ("2", 0), ("3", 4))]
    assert make_plan(counted, {}).num_samples == 7
    assert make_plan([*counted, replace(unit("4"), num_samples=None)], {}).num_samples is None


def test_a_changed_tar_replaces_its_old_unit_and_knows_its_content() -> None:
    old = committed("old", "s3://b/1.tar", content_hash="h")
    plan = make_plan([unit("new", "s3://b/1.tar")], ledger_of(old))
    (group,) = plan.replacements
    assert (group.old, group.new) == ({"old"}, {"new"})
    assert plan.known == {"new": {"h": "old"}}
    assert (plan.new, plan.changed) == (0, 1)


def test_a_vanished_source_is_gone_not_replaced() -> None:
    plan = make_plan([unit("b")], ledger_of(committed("a", "s3://b/1.tar"), committed("b", "file:///b.tar")))
    assert [e.unit_id for e in plan.gone] == ["a"]
    assert plan.todo == ()
    assert plan.replacements == ()


def test_gone_units_leave_where_that_is_asked_for_unless_they_moved() -> None:
    names = ("gone", "stays", "moved", "done")
    latest = ledger_of(*(committed(name, f"s3://b/{name}.tar", etag=name) for name in names))
    plan = make_plan([unit("done", "s3://b/done.tar"), replace(unit("new", "s3://b/new.tar"), etag="moved")], latest)
    assert plan.moved == {"new": "moved"}
    asked = plan.without(["gone", "moved", "done", "unknown"])
    assert [(group.old, group.new) for group in asked.replacements] == [({"gone"}, frozenset())]
    assert [e.unit_id for e in asked.gone] == ["stays", "moved"]
    assert asked.replaced == {"gone"}
    assert (asked.new, asked.changed, list(asked.moves)) == (0, 0, ["new"])
    assert asked.ledger == latest
    assert plan.without(["moved"]) == plan


def test_an_alias_keeps_the_unit_it_points_to() -> None:
    old = committed("old", "s3://b/1.tar")
    alias = committed("new", "s3://b/1.tar", state=LedgerState.ALIAS, alias_of="old")
    plan = make_plan([unit("new", "s3://b/1.tar")], ledger_of(old, alias))
    assert (plan.todo, plan.replacements, plan.gone, plan.done) == ((), (), (), ("new",))


def test_an_alias_of_a_retired_unit_is_done_again() -> None:
    old = committed("old", "s3://b/1.tar", state=LedgerState.RETIRED)
    alias = committed("new", "s3://b/1.tar", state=LedgerState.ALIAS, alias_of="old")
    plan = make_plan([unit("new", "s3://b/1.tar")], ledger_of(old, alias))
    assert [u.unit_id for u in plan.todo] == ["new"]


def test_a_unit_to_redo_is_found_under_its_newer_name() -> None:
    old = committed("old", "s3://b/1.tar", content_hash="h")
    alias = committed("new", "s3://b/1.tar", state=LedgerState.ALIAS, alias_of="old", content_hash="h")
    plan = make_plan([unit("new", "s3://b/1.tar")], ledger_of(old, alias), frozenset({"old"}))
    assert [u.unit_id for u in plan.todo] == ["new"]
    (group,) = plan.replacements
    assert (group.old, group.new) == ({"old"}, {"new"})
    assert plan.known == {}  # its content is known, and yet it is to be embedded


def test_a_redone_unit_replaces_itself() -> None:
    latest = ledger_of(committed("a", "file:///a.tar"), committed("b", "file:///b.tar"))
    plan = make_plan([unit("a"), unit("b")], latest, frozenset({"a"}))
    (group,) = plan.replacements
    assert group.old == group.new == {"a"}
    assert plan.done == ("b",)


def files_unit(unit_id: str, start: str, end: str):  # type: ignore[no-untyped-def]
    return unit(unit_id, "s3://b/p/", format="files", start=start, end=end)


def files_entry(unit_id: str, start: str, end: str):  # type: ignore[no-untyped-def]
    return committed(unit_id, "s3://b/p/", format="files", start=start, end=end)


def test_a_slice_cut_in_two_replaces_only_its_own_range() -> None:
    latest = ledger_of(files_entry("1", "", "f"), files_entry("2", "f", "m"), files_entry("3", "m", "z"))
    units = [
        files_unit("1", "", "f"),
        files_unit("2a", "f", "i"),
        files_unit("2b", "i", "m"),
        files_unit("3", "m", "z"),
    ]
    plan = make_plan(units, latest)
    (group,) = plan.replacements
    assert (group.old, group.new) == ({"2"}, {"2a", "2b"})
    assert plan.done == ("1", "3")
    assert plan.known == {}


def test_slices_that_changed_apart_are_replaced_apart() -> None:
    """As one replacement, the rows of the first would wait for the last, and no content would be known."""
    ranges = {"1": ("", "c"), "2": ("c", "f"), "3": ("f", "m"), "4": ("m", "z")}
    latest = ledger_of(*(replace(files_entry(n, *span), content_hash=f"hash {n}") for n, span in ranges.items()))
    plan = make_plan([files_unit(n if n == "2" else f"{n}x", *span) for n, span in ranges.items()], latest)
    assert [(set(g.old), set(g.new)) for g in plan.replacements] == [({"1"}, {"1x"}), ({"3"}, {"3x"}), ({"4"}, {"4x"})]
    assert plan.known == {f"{n}x": {f"hash {n}": n} for n in "134"}
    assert plan.done == ("2",)


def test_keys_appended_at_the_end_touch_only_the_last_slice() -> None:
    latest = ledger_of(files_entry("1", "", "f"), files_entry("2", "f", "m"))
    plan = make_plan([files_unit("1", "", "f"), files_unit("2x", "f", "q")], latest)
    assert [(g.old, g.new) for g in plan.replacements] == [({"2"}, {"2x"})]


def test_a_slice_that_lost_all_its_pictures_leaves_like_one_that_lost_some() -> None:
    """The last slice of a folder: no new one overlaps it. Its rows stayed, with `gone: keep` for good."""
    latest = ledger_of(files_entry("1", "", "f"), files_entry("2", "f", "m"))
    plan = make_plan([files_unit("1", "", "f")], latest)
    assert [(g.old, g.new) for g in plan.replacements] == [({"2"}, frozenset())]
    assert (plan.todo, plan.gone, plan.left) == ((), (), 1)


@st.composite
def cuts(draw: st.DrawFn) -> list[tuple[str, str]]:
    edges = sorted(draw(st.sets(st.sampled_from("abcdefghijklmnop"), min_size=1)))
    return list(zip(["", *edges], edges, strict=False))


@given(cuts(), cuts())
def test_every_unit_has_one_place_in_a_plan_of_slices(old: list[tuple[str, str]], new: list[tuple[str, str]]) -> None:
    """Old and new cuts of one prefix: nothing is both done and to do, and no old rows overlap new rows unreplaced."""
    latest = ledger_of(*(files_entry(f"{a}-{b}", a, b) for a, b in old))
    plan = make_plan([files_unit(f"{a}-{b}", a, b) for a, b in new], latest)
    todo = {u.unit_id for u in plan.todo}
    grouped_new = [i for g in plan.replacements for i in g.new]
    grouped_old = [i for g in plan.replacements for i in g.old]
    assert todo | set(plan.done) == {f"{a}-{b}" for a, b in new}
    assert not todo & set(plan.done)
    assert len(set(grouped_new)) == len(grouped_new)
    assert len(set(grouped_old)) == len(grouped_old)
    assert set(grouped_new) <= todo
    stale = set(latest) - set(plan.done)
    assert set(grouped_old) == stale
    assert plan.gone == ()
    staying = set(latest) - set(grouped_old)
    for unit_id in todo:
        a, b = unit_id.split("-")
        for other in staying:
            c, d = other.split("-")
            assert not (a < d and c < b), "new rows would stand beside old ones of the same keys"


@given(st.sets(st.text("abcdef", min_size=1, max_size=4)), st.sets(st.text("abcdef", min_size=1, max_size=4)))
def test_adding_sources_never_redoes_old_ones(first: set[str], more: set[str]) -> None:
    latest = ledger_of(*(committed(u, f"file:///{u}.tar") for u in first))
    plan = make_plan([unit(u) for u in sorted(first | more)], latest)
    assert {u.unit_id for u in plan.todo} == more - first
    assert plan.replacements == ()
