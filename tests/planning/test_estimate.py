"""Estimates: arithmetic against torch's own count, the table's last run before arithmetic, dollars for GPUs only."""

import json
import os
from dataclasses import replace

import lance
import pyarrow as pa
import pytest

from clipmill.jobs.planning import dry_run
from clipmill.jobs.planning.arithmetic import ModelCost, model_cost
from clipmill.jobs.planning.estimate import (
    CAPTION_TOKENS,
    Worker,
    core_kind,
    estimate,
    flops_per_sample,
    from_arithmetic,
    from_last_run,
)
from clipmill.jobs.planning.surveying.survey import survey
from clipmill.jobs.running.summary import Summary, describe
from clipmill.jobs.table import ledger
from clipmill.jobs.table.runs import last_job, last_source
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.columns import rows_schema
from clipmill.schemas.job.config import JobFile
from tests.build import picture, tar
from tests.committed import FINGERPRINT, entry_of, make_tables
from tests.models import config, save_checkpoint

CPU, GPU = Worker(gpus=0.0, cores=2.0), Worker(gpus=1.0, cores=8.0)


def job(folder: object, **changes: object) -> JobFile:
    given = {
        "table": f"{folder}/db/images",
        "source": {"format": "webdataset", "uri": f"{folder}/*.tar", "caption": "txt"},
        "model": {"name": "ViT-B-32", "pretrained": "random"},
        **changes,
    }
    return JobFile.model_validate(given)


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_operations_are_those_torch_counts(family, tmp_path):
    import open_clip
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = open_clip.CLIP(**config(family)["model_cfg"])
    folder = save_checkpoint(tmp_path / family, family)
    cost = model_cost(str(folder))
    with FlopCounterMode(display=False) as image, torch.no_grad():
        model.visual(torch.zeros(1, 3, 64, 64))
    with FlopCounterMode(display=False) as text, torch.no_grad():
        model.encode_text(torch.zeros(1, 32, dtype=torch.long))
    assert cost.image_flops == pytest.approx(image.get_total_flops(), rel=0.02)
    assert 32 * cost.token_flops == pytest.approx(text.get_total_flops(), rel=0.05)
    assert cost.text_tokens is None


def test_known_models_cost_what_open_clip_publishes():
    """GFLOP per picture as open_clip publishes them; a tower of timm that is not a plain ViT is not guessed."""
    published = {"ViT-B-32": 8.82, "ViT-L-14": 162.03, "ViT-SO400M-14-SigLIP": 233.5, "RN50": 12.22}
    for name, gflops in published.items():
        assert model_cost(name).image_flops / 1e9 == pytest.approx(gflops, rel=0.06), name
    assert model_cost("ViT-SO400M-14-SigLIP").text_tokens == 16
    assert model_cost("convnext_base") is None
    assert model_cost("no-such-model") is None


def test_captions_cost_their_length_where_a_batch_is_cut_and_the_context_where_not():
    cut, whole = (ModelCost(image_flops=100.0, token_flops=1.0, text_tokens=n) for n in (None, 64))
    assert flops_per_sample(cut, captions=False) == flops_per_sample(whole, captions=False) == 100.0
    assert flops_per_sample(cut, captions=True) == 100.0 + CAPTION_TOKENS
    assert flops_per_sample(whole, captions=True) == 164.0


def test_a_small_model_on_a_gpu_is_limited_by_decoding_and_a_large_one_by_itself(tmp_path):
    small = from_arithmetic(job(tmp_path, model={"name": "clipmill-tiny"}), GPU)
    large = from_arithmetic(job(tmp_path, model={"name": "ViT-L-14"}), GPU)
    assert (small.limited_by, large.limited_by) == ("decode", "embed")
    assert large.samples_per_s < 313
    assert "not measured" in large.basis
    cpu = from_arithmetic(job(tmp_path, model={"name": "ViT-L-14"}), CPU)
    assert (cpu.gpus, cpu.limited_by) == (0.0, "embed")
    assert cpu.samples_per_s < large.samples_per_s / 20
    assert from_arithmetic(job(tmp_path, model={"name": "stub"}), GPU) is None


@pytest.mark.parametrize(
    ("flags", "precision", "kind"),
    [
        ("fpu avx512_bf16 amx_bf16 amx_tile", "auto", "amx_bf16"),
        ("fpu avx512_bf16", "bf16", "avx512_bf16"),
        ("fpu avx512_bf16", "fp32", "fp32"),
        ("fpu avx2", "auto", "fp32"),
        (None, "auto", "fp32"),
    ],
)
def test_a_processor_is_taken_for_what_it_multiplies(tmp_path, flags, precision, kind):
    cpuinfo = tmp_path / "cpuinfo"
    if flags is not None:
        cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: none\n")
    made = job(tmp_path, model={"name": "ViT-L-14", "precision": precision})
    assert core_kind(made.model.precision, cpuinfo) == kind


def test_the_last_run_on_such_a_worker_goes_before_arithmetic(tmp_path):
    tables = make_tables(tmp_path)
    assert from_last_run(tables, CPU) is None
    for run, rate, workers, device in (("a", 90.0, 3, "cpu"), ("b", 7000.0, 2, "NVIDIA"), ("c", 0.0, 1, "cpu")):
        detail = {"samples_per_s": rate, "workers": workers, "device": device, "seen": 10, "limited_by": "embed"}
        tables.log_run(run, "embed", "finished", json.dumps(detail), table_id=tables.id())
    assert estimate(job(tmp_path), tables, CPU).samples_per_s == 30.0
    found = estimate(job(tmp_path), tables, GPU)
    assert (found.samples_per_s, found.basis) == (3500.0, "measured: this table's run b")


def test_runs_of_a_table_of_this_name_that_was_dropped_say_nothing_of_this_one(tmp_path):
    """Neither how fast it is nor what its job was: its model and its source may have been others."""
    tables = make_tables(tmp_path)
    detail = {"samples_per_s": 90.0, "workers": 1, "device": "cpu", "seen": 10, "limited_by": "embed"}
    source = {"source": {"format": "webdataset", "uri": "s3://mine/*.tar"}}
    tables.log_run("mine", "embed", "started", json.dumps(source), table_id=tables.id())
    tables.log_run("mine", "embed", "finished", json.dumps(detail), table_id=tables.id())
    tables.log_run("other", "embed", "started", '{"source": {}}', table_id="f" * 16)
    tables.log_run("other", "embed", "finished", json.dumps({**detail, "samples_per_s": 1.0}), table_id="f" * 16)
    assert from_last_run(tables, CPU).basis == "measured: this table's run mine"
    assert last_job(tables) == source
    assert last_source(tables).uri == ("s3://mine/*.tar",)


def test_a_plan_for_whatever_the_cluster_has_takes_the_last_run_as_it_was(tmp_path):
    """`gpus: auto` on a machine without a GPU: the run that was measured there, not a card that nobody has."""
    (tmp_path / "0.tar").write_bytes(tar([(f"{n}.jpg", picture(n)) for n in range(8)]))
    tables = made(job(tmp_path))
    detail = {"samples_per_s": 103.0, "workers": 1, "device": "cpu", "seen": 10, "limited_by": "embed"}
    tables.log_run("a", "embed", "finished", json.dumps(detail), table_id=tables.id())
    plan = dry_run.dry_run(job(tmp_path), price_per_gpu_hour=3600.0)
    assert (plan.samples_per_s, plan.basis) == (103.0, "measured: this table's run a")
    assert plan.dollars is None, "no GPU was used"
    asked = dry_run.dry_run(job(tmp_path, workers={"gpus": 1}), price_per_gpu_hour=3600.0)
    assert "A100" in asked.basis, "a run without a GPU says nothing of one"


def test_plan_says_hours_dollars_and_why(tmp_path):
    (tmp_path / "0.tar").write_bytes(tar([(f"{n}.jpg", picture(n)) for n in range(8)]))
    plan = dry_run.dry_run(job(tmp_path), price_per_gpu_hour=3600.0)
    assert plan.samples is not None
    assert plan.worker_hours == pytest.approx(plan.samples / plan.samples_per_s / 3600, abs=1e-3)
    assert plan.dollars == pytest.approx(plan.worker_hours * 3600, rel=0.01)
    assert "A100" in plan.basis
    without_gpu = dry_run.dry_run(job(tmp_path, workers={"gpus": 0}), price_per_gpu_hour=3600.0)
    assert (without_gpu.dollars, without_gpu.limited_by) == (None, "embed")


def test_a_measured_sample_runs_the_real_model_and_writes_nothing(tmp_path):
    (tmp_path / "0.tar").write_bytes(tar([(f"{n}.jpg", picture(n)) for n in range(12)]))
    made = job(tmp_path, model={"name": "clipmill-tiny"}, workers={"gpus": 0})
    plan = dry_run.dry_run(made, measure=8)
    assert plan.basis.startswith("measured: the first 8 samples on this machine")
    assert plan.samples_per_s > 0
    assert not (tmp_path / "db").exists()


def test_the_closing_summary_compares_the_estimate_with_the_outcome():
    summary = Summary(
        run="r", table="db/images", seen=10, samples_per_s=45.0, estimated_samples_per_s=50.0, estimate_basis="why"
    )
    assert "estimated 50.0 samples/s, reached 0.90 of it (why)" in describe(summary)
    assert "estimated" not in describe(Summary(run="r", table="db/images"))


def test_a_first_plan_on_a_machine_without_a_gpu_is_of_this_machine(tmp_path, monkeypatch):
    """It was of an A100, and `embed` then said that it had reached 0.03 of it."""
    (tmp_path / "0.tar").write_bytes(tar([(f"{n}.jpg", picture(n)) for n in range(8)]))
    here = from_arithmetic(job(tmp_path), Worker(gpus=0.0, cores=float(os.cpu_count() or 1)))
    there = from_arithmetic(job(tmp_path), GPU)
    monkeypatch.setattr("clipmill.jobs.planning.estimate.has_gpu", lambda: False)
    plan = dry_run.dry_run(job(tmp_path))
    assert plan.samples_per_s == here.samples_per_s
    assert f"{there.samples_per_s:,.0f} samples/s each" in plan.basis
    assert dry_run.dry_run(job(tmp_path), price_per_gpu_hour=2.0).samples_per_s == there.samples_per_s
    monkeypatch.setattr("clipmill.jobs.planning.estimate.has_gpu", lambda: True)
    assert dry_run.dry_run(job(tmp_path)).samples_per_s == there.samples_per_s


def test_pictures_that_the_table_knows_are_read_and_not_embedded_in_the_estimate(tmp_path):
    """A Lance source before its first run, after it, after a compaction, and with another caption."""
    rows = [{"image": b"", "text": f"{n}", "other": ""} for n in range(2000)]
    lance.write_dataset(pa.Table.from_pylist(rows), tmp_path / "raw.lance", max_rows_per_file=500)
    asked = job(tmp_path, source={"format": "lance", "uri": f"{tmp_path}/raw.lance", "caption": "text"})
    tables = made(asked)

    def plan(job=asked):
        found = dry_run.dry_run(job)
        return found.samples, found.known, found.worker_hours

    new = plan()
    assert new[:2] == (2000, 0)
    ledger.append(tables, [done(one) for one in survey(asked.source, asked.storage, asked.limits)])
    assert plan() == (0, 0, 0.0)
    lance.dataset(tmp_path / "raw.lance").optimize.compact_files(target_rows_per_fragment=10_000)
    lance.write_dataset(pa.Table.from_pylist(rows[:500]), tmp_path / "raw.lance", mode="append")
    samples, known, hours = plan()
    assert (samples, known) == (2500, 2000)
    assert new[2] / 4 <= hours < new[2] / 2, "a quarter as many are new, and the others are decoded"
    lance.write_dataset(pa.Table.from_pylist(rows), tmp_path / "raw.lance", mode="overwrite", max_rows_per_file=500)
    ledger.append(tables, [done(one) for one in survey(asked.source, asked.storage, asked.limits)])
    source = asked.source.model_copy(update={"caption": "other"})
    assert plan(asked.model_copy(update={"source": source}))[:2] == (2000, 0)


def test_what_moved_is_read_and_not_embedded_in_the_estimate(tmp_path):
    (tmp_path / "0.tar").write_bytes(tar([(f"{n}.jpg", picture(n)) for n in range(8)]))
    asked = job(tmp_path)
    tables = made(asked)
    ledger.append(tables, [done(one, seen=8) for one in survey(asked.source, asked.storage, asked.limits)])
    (tmp_path / "0.tar").rename(tmp_path / "1.tar")
    (tmp_path / "2.tar").write_bytes(tar([(f"{n}.jpg", picture(n)) for n in range(8)]))
    found = dry_run.dry_run(asked)
    assert (found.moved, found.new, found.samples, found.known) == (1, 1, 16, 8)


def made(asked):
    """The job's table without a row."""
    tables = Tables.at(asked.table)
    tables.ensure_side_tables()
    model = replace(FINGERPRINT, model=asked.model.name, pretrained=asked.model.pretrained, dim=512).to_json()
    schema = rows_schema(dim=512, keep={}, fingerprint_json=model, vocabulary_json=None, thumbnails=False)
    tables.create("", schema)
    return tables


def done(unit, seen=None):
    counted = seen if seen is not None else unit.num_samples
    return entry_of(unit, "a", counted, version=1)
