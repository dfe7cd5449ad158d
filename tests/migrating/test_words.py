"""What a person sees of a set that is promoted or dropped."""

from dataclasses import replace

from clipmill.jobs.migrating.drop import Dropped
from clipmill.jobs.migrating.promote import ALREADY, Promotion
from clipmill.jobs.migrating.promote_gates import Overlap, Verdict
from clipmill.jobs.migrating.reembed import Reembedded
from clipmill.jobs.migrating.words import (
    dropped_in_words,
    promotion_in_words,
    reembedded_in_words,
    verdict_in_words,
)

OVERLAP = Overlap(
    rows=100, k=3, mean=0.5, histogram=[10, 40, 50, 0], changed_most=[{"id": f"a{n}", "shared": 0} for n in range(20)]
)
VERDICT = Verdict(
    table="/db/images",
    version=9,
    set="vit_l",
    model="ViT-L-14 openai",
    in_use="vit_b",
    blockers={},
    coverage={"filled": 99, "rows": 100, "share": 0.99, "failed": 0, "rejects": {}, "left": 1},
    overlap=OVERLAP,
    norms={"bad": 0},
    index="IVF_RQ",
    recall=0.987,
    golden={"now": 0.5, "set": 0.625},
)


def test_the_histogram_has_words() -> None:
    lines = verdict_in_words(VERDICT).splitlines()
    assert "of 100 pictures, how many share so many of their 3 nearest in both models:" in lines
    assert "   0 shared      10 pictures  #####" in lines
    assert "   2 shared      50 pictures  ########################" in lines
    assert not [line for line in lines if line.startswith("   3 shared")]
    assert "those that changed most: a0 (0 shared), a1 (0 shared), a2 (0 shared), a3 (0 shared), a4 (0 shared)" in lines
    assert lines[-1] == "nothing stands in the way: `clipmill promote /db/images vit_l` puts it in use"


def test_a_fill_is_told_in_a_few_lines_and_what_is_next() -> None:
    done = Reembedded(
        run="r1",
        table="/db/images",
        set="vit_l",
        model="ViT-L-14",
        rows=40,
        rejects={"not_found": 2},
        table_rows=100,
        filled=98,
        failed=2,
        reasons={"not_found": 2},
        requests=3,
        bytes_read=2_300_000,
        image_bytes=1_800_000,
        seconds=35.5,
        startup_s=33.6,
        rows_per_s=21.0,
        limited_by="embed",
    )
    assert reembedded_in_words(done).splitlines() == [
        "set 'vit_l' of ViT-L-14: 98 of 100 rows filled (40 now); 2 could not be filled (not_found 2)",
        "2.3 MB read in 3 requests, for pictures of 1.8 MB",
        "21.0 rows/s, limited by embed; 35.5 s in all, 33.6 s of them to start; run r1",
        "`clipmill rejects /db/images --set vit_l` names what could not be filled",
        "next: `clipmill promote /db/images vit_l --dry-run` says what stands in the way of its use",
    ]
    idle = replace(done, run="", rows=0, rejects={}, failed=0, reasons={}, filled=100, requests=0)
    assert reembedded_in_words(idle).splitlines()[0] == "set 'vit_l' of ViT-L-14: 100 of 100 rows filled (0 now)"
    assert len(reembedded_in_words(idle).splitlines()) == 2
    late = reembedded_in_words(replace(done, failed=5, reasons={"corrupt": 5}, filled=90, left=5))
    assert "5 could not be filled (corrupt 5), 5 are not done yet" in late, "of earlier calls too"
    assert "next:" not in late


def test_a_promotion_says_how_to_take_it_back() -> None:
    done = Promotion(
        table="/db/images", set="vit_l", beside="vit_b", model="ViT-L-14", version=12, live=12, verdict=VERDICT
    )
    text = promotion_in_words(done)
    assert text.startswith("'vit_l' (ViT-L-14) is in use since version 12; readers see version 12\n99 of 100 rows")
    assert "`clipmill promote /db/images --back`" in text
    assert len(text.splitlines()) <= 6
    again = promotion_in_words(replace(done, version=13, verdict=None, notes=[ALREADY]))
    assert again.startswith("'vit_l' (ViT-L-14) is in use; readers see version 12\n")


def test_a_drop_says_when_its_space_is_free() -> None:
    done = Dropped(table="/db/images", set="vit_b", columns=["vector__vit_b"], version=13, bytes_freed=0)
    text = dropped_in_words(done)
    assert "its space is freed when the versions that still have it are a week old" in text
    assert "`clipmill maintain /db/images`" in text
    assert "bytes_freed" not in text
    assert " 0" not in text
