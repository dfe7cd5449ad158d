"""More planted damage, in a table that the unit loop made: captions, tags of a vocabulary, indices, pictures that can
be read again. Each kind is seen and named; what only the picture, the text or the model can tell, by a sample."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from clipmill.jobs.cli import main as cli
from clipmill.jobs.committing.commit import Committer
from clipmill.jobs.indexing.build import IndexOptions, build_index
from clipmill.jobs.querying.curve import CONFIG_KEY
from clipmill.jobs.table.tables import Tables
from clipmill.jobs.verifying.verify import Report, verify
from clipmill.schemas import columns
from clipmill.schemas.job.config import Limits, Source, Storage, Tags
from clipmill.schemas.unit.tasks import Task, WorkContext
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.bench import Bench
from clipmill.workers.store.storage import head
from clipmill.workers.stub import StubEngine
from clipmill.workers.tag import Tagger, load_vocabulary
from clipmill.workers.unit import UnitRun
from tests.build import picture, tar
from tests.committed import entry, take_lease

ROWS = 12
VOCABULARY = "facets: {thing: [cat, dog, cow, hen], colour: [red, green, blue, grey]}\n"


@dataclass
class Made:
    """A table of ROWS rows from a tar, and the tar."""

    tar: Path
    tables: Tables

    @property
    def uri(self) -> str:
        return f"{self.tables.database}/{self.tables.name}"

    @property
    def rows(self) -> list[dict[str, Any]]:
        """In the order of the tar, wherever a change moved them."""
        found = {row["id"]: row for row in self.tables.open().to_table().to_pylist()}
        return [found[f"{self.tar}#{n}.jpg"] for n in range(ROWS)]

    def check(self, sample: int = 0) -> Report:
        return verify(self.uri, Storage(), sample=sample)

    def change(self, number: int, **values: Any) -> None:
        """What any client of Lance can do to one row."""
        dataset = self.tables.open()
        part = {"id": [f"{self.tar}#{number}.jpg"]}
        part |= {name: pa.array([value], dataset.schema.field(name).type) for name, value in values.items()}
        dataset.merge_insert("id").when_matched_update_all().execute(pa.table(part))

    def file(self, pattern: str) -> Path:
        return sorted(Path(self.tables.rows).glob(pattern), key=lambda path: path.stat().st_mtime_ns)[-1]


def make(folder: Path) -> Made:
    packed = folder / "a.tar"
    members = [
        (f"{n}.{end}", data) for n in range(ROWS) for end, data in (("jpg", picture(n)), ("txt", b"words %d" % n))
    ]
    packed.write_bytes(tar(members))
    engine = StubEngine.from_name("stub")
    (folder / "words.yaml").write_text(VOCABULARY)
    tags = Tags(vocabulary=str(folder / "words.yaml"), top_k=2, min_score=0.05)
    tagger = Tagger.build(load_vocabulary(str(tags.vocabulary)), engine, tags)
    tables = Tables.at(f"{folder}/db/images", Storage())
    tables.ensure_side_tables()
    schema = columns.rows_schema(
        dim=16,
        keep={},
        fingerprint_json=engine.fingerprint.to_json(),
        vocabulary_json=tagger.metadata_json,
        thumbnails=False,
        more=pa.schema([columns.PHASH]),
    )
    version = int(tables.create("", schema).version)
    source = Source.model_validate({"format": "webdataset", "uri": str(packed), "caption": "txt"})
    job = {"source": source.model_dump(mode="json"), "tags": tags.model_dump(mode="json")}
    tables.log_run("a", "embed", "started", json.dumps(job), table_id=tables.id())
    found = head(str(packed), Storage())
    unit = WorkUnit(unit_id="u1", format="webdataset", uri=found.uri, etag=found.etag, size_bytes=found.size_bytes)
    context = WorkContext(
        run="a",
        rows_uri=tables.rows,
        rows_version=version,
        rejects_uri=tables.uri("rejects"),
        source=source,
        storage=Storage(),
        limits=Limits(),
        phash=True,
    )
    done = UnitRun(Task(unit=unit, attempt=1), context, Bench(engine=engine, tagger=tagger, pool=None)).run()
    one = replace(entry("u1", "a", done.written, uri=found.uri), etag=found.etag)
    lease = take_lease(tables, "a")
    Committer(tables, lease).commit([one], done.fragments)
    lease.release()
    return Made(packed, tables)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("made"))


@pytest.fixture
def made(template: Made, tmp_path: Path) -> Made:
    """A copy of the table, to be damaged; its pictures stay where they are."""
    shutil.copytree(template.tables.database, tmp_path / "db")
    return Made(template.tar, Tables.at(f"{tmp_path}/db/images", Storage()))


@pytest.fixture
def alone(tmp_path: Path) -> Made:
    """With a tar and a vocabulary of its own."""
    return make(tmp_path)


def test_a_sound_table_has_no_problems(made: Made) -> None:
    build_index(made.uri, IndexOptions(kind="ivf_rq"))
    report = made.check(ROWS)
    assert (report.problems, report.not_checked, report.sampled, report.sample_not_checked) == ([], [], ROWS, 0)
    assert report.sample_min_cosine is not None
    assert report.sample_min_cosine > 0.999
    assert report.recall is not None


@pytest.mark.parametrize("column", ["tags", "caption", "width"])
def test_a_column_that_somebody_dropped_is_named(made: Made, column: str) -> None:
    made.tables.open().drop_columns([column])
    report = verify(made.uri, Storage(), sample=3)
    assert report.problems == [f"the table lacks the column {column}: what its rows hold is not checked"]
    assert report.not_checked == ["the rows, a sample and the indices: columns of the table are gone"]
    assert report.sample_not_checked == 3


def test_samples_differ_and_are_drawn_again_by_their_seed(made: Made) -> None:
    seeds = {made.check(1).seed for _ in range(5)}
    assert len(seeds) == 5
    assert verify(made.uri, Storage(), sample=1, seed=7).seed == 7


def vector_null(made: Made) -> None:
    made.change(3, vector=None)


def every_vector_null(made: Made) -> None:
    for number in range(ROWS):
        made.change(number, vector=None)


def caption_gone(made: Made) -> None:
    made.change(3, caption=None)


def caption_vector_gone(made: Made) -> None:
    made.change(3, caption_vector=None)


def caption_score_changed(made: Made) -> None:
    made.change(3, caption_score=made.rows[3]["caption_score"] + 0.01)


def caption_score_out_of_range(made: Made) -> None:
    made.change(3, caption_score=7.5)


def caption_score_not_a_number(made: Made) -> None:
    made.change(3, caption_score=float("nan"))


def caption_vector_of_another(made: Made) -> None:
    made.change(3, caption_vector=made.rows[4]["caption_vector"])


def tag_score_out_of_range(made: Made) -> None:
    made.change(3, tags=["cat"], tag_scores=[7.5])


def tag_score_under_the_least(made: Made) -> None:
    made.change(3, tags=["cat"], tag_scores=[0.01])


def tag_score_not_a_number(made: Made) -> None:
    made.change(3, tags=["cat"], tag_scores=[float("nan")])


def tags_in_disorder(made: Made) -> None:
    made.change(3, tags=["cat", "red"], tag_scores=[0.3, 0.8])


def tags_not_parallel(made: Made) -> None:
    made.change(3, tags=["cat", "red"], tag_scores=[0.8])


def tag_twice(made: Made) -> None:
    made.change(3, tags=["cat", "cat"], tag_scores=[0.8, 0.1])


def tag_unknown(made: Made) -> None:
    made.change(3, tags=["unicorn"], tag_scores=[0.8])


def tags_too_many(made: Made) -> None:
    made.change(3, tags=["cat", "dog", "hen"], tag_scores=[0.5, 0.4, 0.1])


def tags_null(made: Made) -> None:
    made.change(3, tags=None, tag_scores=None)


def uri_of_a_stranger(made: Made) -> None:
    made.change(3, uri="/etc/hostname")


def uri_of_a_neighbour(made: Made) -> None:
    made.change(3, uri=f"{made.tar}x#3.jpg")


def id_not_the_uri(made: Made) -> None:
    made.tables.open().update({"id": "'another'"}, where=f"id = '{made.rows[3]['id']}'")


def etag_of_another(made: Made) -> None:
    made.change(3, source_etag="1-2")


def hash_malformed(made: Made) -> None:
    made.change(3, image_hash="none")


def offset_negative(made: Made) -> None:
    made.change(3, image_offset=-1)


def range_halved(made: Made) -> None:
    made.change(3, image_size=None)


def size_zero(made: Made) -> None:
    made.change(3, width=0)


def data_file_gone(made: Made) -> None:
    made.file("data/*").unlink()


def data_file_cut(made: Made) -> None:
    path = made.file("data/*")
    path.write_bytes(path.read_bytes()[:-100])


def deletion_file_gone(made: Made) -> None:
    vector_null(made)
    made.file("_deletions/*").unlink()


def data_file_of_the_ledger_gone(made: Made) -> None:
    next(Path(made.tables.uri("units")).glob("data/*")).unlink()


def rows_scrambled(made: Made) -> None:
    path = made.file("data/*")
    path.write_bytes(bytes(255 - byte for byte in path.read_bytes()))


def index_file_gone(made: Made) -> None:
    build_index(made.uri, IndexOptions(kind="none"))
    made.file("_indices/*/*").unlink()


def index_file_cut(made: Made) -> None:
    build_index(made.uri, IndexOptions(kind="ivf_rq"))
    path = made.file("_indices/*/auxiliary.idx")
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (vector_null, "3.jpg: vector is null"),
        (every_vector_null, "11.jpg: vector is null"),
        (caption_gone, "3.jpg: of caption, its vector and its score there is only caption_vector, caption_score"),
        (caption_vector_gone, "3.jpg: of caption, its vector and its score there is only caption, caption_score"),
        (caption_score_changed, "3.jpg: caption_score is "),
        (caption_score_out_of_range, "3.jpg: caption_score is 7.5"),
        (caption_score_not_a_number, "3.jpg: caption_score is nan"),
        (caption_vector_of_another, "3.jpg: caption_score is "),
        (tag_score_out_of_range, "3.jpg: the tag score 7.5 is not between 0.05 and 1"),
        (tag_score_under_the_least, "3.jpg: the tag score 0.01"),
        (tag_score_not_a_number, "3.jpg: the tag score nan"),
        (tags_in_disorder, "3.jpg: tags are not ordered by score"),
        (tags_not_parallel, "3.jpg: tags and tag_scores differ in length"),
        (tag_twice, "3.jpg: a tag is there twice"),
        (tag_unknown, "3.jpg: the tag 'unicorn' is no label of the vocabulary 'words'"),
        (tags_too_many, "3.jpg: 3 tags of one facet, at most 2 are given"),
        (tags_null, "3.jpg: tags or tag_scores is null"),
        (uri_of_a_stranger, "3.jpg: its uri /etc/hostname is not of its unit's source"),
        (uri_of_a_neighbour, "is not of its unit's source"),
        (id_not_the_uri, "row another: its id is not its uri"),
        (etag_of_another, "3.jpg: source_etag '1-2' is not its unit's"),
        (hash_malformed, "3.jpg: image_hash 'none' is no xxh3-128"),
        (offset_negative, "3.jpg: image_offset -1 with image_size"),
        (range_halved, "with image_size None is no byte range"),
        (size_zero, "3.jpg: 0x"),
        (data_file_gone, "the table: data file "),
        (data_file_cut, "bytes of"),
        (deletion_file_gone, "the table: deletion file "),
        (data_file_of_the_ledger_gone, "the ledger: data file "),
        (rows_scrambled, "cannot be read"),
        (index_file_gone, "index "),
        (index_file_cut, "index vector_idx: "),
    ],
)
def test_planted_damage_is_seen_and_named(made: Made, damage: Callable[[Made], None], said: str) -> None:
    damage(made)
    problems = made.check().problems
    assert any(said in problem for problem in problems), problems


def test_damage_to_one_value_is_not_blamed_on_others(made: Made) -> None:
    caption_score_changed(made)
    assert len(made.check().problems) == 1


def vector_of_another_picture(made: Made) -> None:
    other = made.rows[4]
    same = made.rows[3]["caption_vector"]
    score = float(np.asarray(other["vector"], np.float32) @ np.asarray(same, np.float32))
    made.change(3, vector=other["vector"], caption_score=score)


def caption_of_another(made: Made) -> None:
    made.change(3, caption="something else")


def hash_of_another(made: Made) -> None:
    made.change(3, image_hash=made.rows[4]["image_hash"])


def tag_of_another_label(made: Made) -> None:
    labels = [name for name in ("cat", "dog", "cow", "hen") if name not in made.rows[3]["tags"]]
    made.change(3, tags=[labels[0]], tag_scores=[0.97])


def tag_score_moved(made: Made) -> None:
    made.change(3, tags=made.rows[3]["tags"][:1], tag_scores=[0.06])


def tags_emptied(made: Made) -> None:
    made.change(3, tags=[], tag_scores=[])


def size_of_another(made: Made) -> None:
    made.change(3, width=made.rows[3]["width"] + 1)


def phash_of_another(made: Made) -> None:
    made.change(3, phash=made.rows[4]["phash"])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (vector_of_another_picture, "3.jpg: embedding it again gives cosine"),
        (caption_of_another, "3.jpg: embedding its caption again gives cosine"),
        (hash_of_another, "are no longer those it was made from"),
        (tag_of_another_label, "0.97 is stored"),
        (tag_score_moved, "0.06 is stored"),
        (tags_emptied, "which is not among its tags"),
        (size_of_another, "3.jpg: it is said to be"),
        (phash_of_another, "3.jpg: hashing its picture again gives"),
    ],
)
def test_what_only_the_model_or_the_picture_tells_is_seen_by_a_sample(
    made: Made, damage: Callable[[Made], None], said: str
) -> None:
    damage(made)
    assert made.check().problems == []
    problems = made.check(ROWS).problems
    assert any(said in problem for problem in problems), problems
    assert all("3.jpg" in problem for problem in problems)


def test_tags_are_compared_with_the_model_in_every_row_whatever_the_sample(made: Made) -> None:
    tag_of_another_label(made)
    assert len(made.check(1).problems) == 1


def test_a_vocabulary_that_changed_is_said_and_labels_are_not_judged_by_it(alone: Made) -> None:
    (alone.tar.parent / "words.yaml").write_text("labels: [sun, moon]")
    report = alone.check(2)
    assert report.problems == []
    assert any("vocabulary" in one for one in report.not_checked)


def test_bytes_that_changed_under_a_row_are_seen(alone: Made) -> None:
    data = bytearray(alone.tar.read_bytes())
    data[data.index(picture(3)) + 200] ^= 0xFF
    alone.tar.write_bytes(data)
    (problem,) = alone.check(ROWS).problems
    assert "no longer those it was made from" in problem


def test_a_source_that_is_gone_is_said_and_is_not_the_tables_fault(alone: Made) -> None:
    alone.tar.unlink()
    report = alone.check(6)
    assert (report.problems, report.sampled, report.sample_not_checked) == ([], 0, 6)
    assert report.sample_min_cosine is None
    assert "6 of the sample: cannot be read, such as" in report.not_checked[0]


def test_a_picture_that_this_machine_cannot_decode_is_not_the_tables_fault(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipmill.jobs.verifying import sample

    monkeypatch.setattr(sample, "Limits", lambda: Limits(max_pixels=100))  # the job allowed more
    report = made.check(2)
    assert (report.problems, report.sampled, report.sample_not_checked) == ([], 0, 2)
    assert "2 of the sample: does not decode here, such as" in report.not_checked[0]


def test_the_command_ends_with_3_where_something_is_wrong_or_could_not_be_looked_at(
    alone: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*options: str) -> tuple[int, dict[str, Any], str]:
        code = cli.run(["verify", alone.uri, "--json", *options])
        out, err = capsys.readouterr()
        return code, json.loads(out), err

    assert run()[0] == 0
    code, report, said = run("--sample", "2")
    assert (code, report["sampled"]) == (0, 2)
    assert said == f"these rows again: --sample 2 --seed {report['seed']}\n"
    alone.tar.rename(alone.tar.with_suffix(".away"))
    code, report, said = run("--sample", "2", "--seed", "7")
    assert (code, report["sampled"], report["sample_not_checked"], report["seed"]) == (3, 0, 2, 7)
    moved = alone.tar.with_suffix(".away")
    alone.tar.with_suffix(".tar").symlink_to(moved)
    assert run("--sample", "2")[0] == 0
    vector_null(alone)
    assert run()[0] == 3


def _index_folder(table: Path, name: str) -> Path:
    (index,) = [i for i in lance.dataset(str(table)).describe_indices() if i.name == name]
    return table / "_indices" / str(index.segments[0].uuid)


def test_a_scalar_index_of_other_values_is_named(tmp_path: Path) -> None:
    """As large as the right one, so that only asking it tells."""
    from tests.tables import TableOptions, make_table

    (tmp_path / "a").mkdir()
    good = Path(make_table(tmp_path / "a", TableOptions(rows=300)) + ".lance")
    rows = lance.dataset(str(good)).to_table()
    place = rows.schema.get_field_index("license")
    swap = {"cc0": "cc-by", "cc-by": "cc0"}
    swapped = pa.array([swap.get(value, value) for value in rows["license"].to_pylist()])
    bad = tmp_path / "b.lance"
    lance.write_dataset(rows.set_column(place, rows.schema.field(place), swapped), str(bad), enable_stable_row_ids=True)
    for path in (good, bad):
        build_index(str(path).removesuffix(".lance"))
    for file in _index_folder(bad, "license_idx").iterdir():
        file.write_bytes((_index_folder(good, "license_idx") / file.name).read_bytes())
    report = verify(f"{tmp_path}/b", Storage(), seed=0)
    (named,) = [problem for problem in report.problems if "index" in problem]
    assert named.startswith("index license_idx: row ")
    assert named.endswith("is not found by its license; build it again: `clipmill index TABLE --rebuild`")


def test_a_vocabulary_that_a_table_in_a_store_names_on_this_disk_is_not_opened(made: Made) -> None:
    from clipmill.jobs.table.vocabularies import vocabulary_of

    schema = made.tables.open().schema
    assert vocabulary_of(made.tables, schema) is not None

    class Elsewhere(Tables):
        """The same four tables, under the name of a store."""

        def open(self, *args: Any, **options: Any) -> Any:
            return made.tables.open(*args, **options)

    assert vocabulary_of(Elsewhere(database="s3://b/db", name="images"), schema) is None


def test_recall_that_was_lost_on_the_same_rows_is_named_though_it_is_little(tmp_path: Path) -> None:
    """A stretch of an index that reads as zeros raises nothing in Lance. The same questions find what they found, if
    nothing is wrong; of other rows they are others, and vary."""
    from tests.tables import TableOptions, make_table

    uri = make_table(tmp_path, TableOptions(rows=600))
    build_index(uri, IndexOptions(kind="ivf_rq"))
    dataset = lance.dataset(f"{uri}.lance")
    key = f"{CONFIG_KEY}vector"
    stored = json.loads(dataset.config()[key])
    for recall, rows, is_named in ((1.0, 600, False), (1.06, 600, True), (1.06, 599, False)):
        stored = {**stored, "rows": rows, "recall": {**stored["recall"], "recall": recall}}
        dataset.update_config({key: json.dumps(stored)})
        report = verify(uri, Storage())
        assert report.recall == 1.0
        assert any("recall@10 is 1.00, it was" in problem for problem in report.problems) == is_named


def test_an_index_over_other_vectors_is_named(tmp_path: Path) -> None:
    """Whole files, of the right size, that do not belong together: only recall tells."""
    from tests.tables import TableOptions, batch

    one, two = (batch(TableOptions(rows=1500, seed=seed, noise=3.0)) for seed in (1, 2))
    place = one.schema.get_field_index("vector")
    other = one.set_column(place, one.schema.field(place), two["vector"])

    def written(rows: pa.Table, name: str) -> Path:
        path = tmp_path / f"{name}.lance"
        lance.write_dataset(rows, str(path), enable_stable_row_ids=True, data_storage_version="2.2")
        return next(path.glob("data/*"))

    data = written(one, "one")
    build_index(f"{tmp_path}/one", IndexOptions(kind="ivf_rq"))
    # The size of a file varies by some 64 bytes from writing to writing.
    others = (written(other, str(n)) for n in range(200))
    data.write_bytes(next(path.read_bytes() for path in others if path.stat().st_size == data.stat().st_size))
    report = verify(f"{tmp_path}/one", Storage())
    assert report.recall is not None
    assert report.recall < 0.6
    (named,) = [problem for problem in report.problems if "index" in problem or "file" in problem]
    assert named.startswith("index vector_idx: recall@10 is 0.")
