"""What searches and an index with more rows ask of a store, and how many bytes come: as many as were counted, and a
tenth more, since how threads divide what they read is by whose turn it is."""

from collections import Counter
from collections.abc import Iterator

import lance
import pyarrow as pa
import pytest

from benchmarks.query_cases import CASES, query_vectors
from benchmarks.query_data import chunks, schema
from benchmarks.query_steps import TextEngine
from clipmill.jobs.indexing.build import IndexOptions, build_index
from clipmill.jobs.querying.open import Table, open_table
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.job.config import Storage
from tests.fake_s3 import FakeS3

pytestmark = [pytest.mark.counted, pytest.mark.slow]

ROWS, MORE_ROWS, DIM = 4000, 400, 64
URI = "s3://b/db/images"


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Objects of a table of 1.4 MB, half of them vectors and their index."""
    folder = tmp_path_factory.mktemp("indexed")
    reader = pa.RecordBatchReader.from_batches(schema(DIM), chunks(ROWS, DIM, "clustered"))
    lance.write_dataset(reader, f"{folder}/images.lance", enable_stable_row_ids=True)
    build_index(f"{folder}/images", IndexOptions(kind="ivf_rq"))
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {f"db/{path.relative_to(folder)}": path.read_bytes() for path in files}


@pytest.fixture
def store(indexed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeS3]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing-key-0000000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing-secret")
    with FakeS3().running() as running:
        running.objects |= indexed
        yield running


def storage(store: FakeS3) -> Storage:
    return Storage(endpoint_url=store.endpoint, region="us-east-1")


def taken(store: FakeS3) -> tuple[Counter[str], int]:
    """Requests by method and bytes that came, since the last time that this was asked."""
    found = Counter(method for method, _ in store.requests), store.sent_bytes
    store.requests.clear()
    store.sent_bytes = 0
    return found


def ask(table: Table, engine: TextEngine, kind: str, n: int) -> None:
    engine.n, options = n, CASES[kind](n)
    example = {"text": "old thing100"} if options.get("hybrid") else {"vector": engine.queries_QD[n]}
    assert table.search(k=10, **example, **options).num_rows == 10


@pytest.mark.parametrize(
    ("kind", "first", "first_bytes", "later", "later_bytes"),
    [
        ("plain", 44, 3_360_000, 5, 850_000),
        ("5 %", 16, 1_230_000, 3, 770_000),
        ("far tag, 0.3 %", 19, 1_040_000, 8, 510_000),
        ("hybrid", 61, 4_410_000, 4, 1_280_000),
    ],
)
def test_a_search_in_a_script_asks_the_store_no_more_often_than_it_did(
    store: FakeS3, kind: str, first: int, first_bytes: int, later: int, later_bytes: int
) -> None:
    """Its first search reads what later ones have: the index, statistics of columns, lists of tags and words."""
    engine = TextEngine(query_vectors(10, DIM, "clustered"))
    table = open_table(URI, storage=storage(store), engine=engine)  # type: ignore[arg-type]
    requests, _ = taken(store)
    assert requests <= Counter({"GET": 3}), "to open"
    for n, (most, most_bytes) in enumerate([(first, first_bytes), (later, later_bytes), (later, later_bytes)]):
        ask(table, engine, kind, n)
        check(store, {"GET": most}, most_bytes)


def test_a_server_that_is_warm_asks_the_store_for_the_rows_that_it_shows_alone(store: FakeS3) -> None:
    """Those of some pages of its files, and with its first filter a list of tags or numbers."""
    engine = TextEngine(query_vectors(10, DIM, "clustered"))
    table = open_table(URI, storage=storage(store), engine=engine)  # type: ignore[arg-type]
    taken(store)
    assert table.warm()
    check(store, {"GET": 80}, 4_500_000)  # 54 to 72 and 3.5 to 4.2 MB, by what its threads ask for side by side
    ask(table, engine, "plain", 0)
    check(store, {"GET": 5}, 570_000)
    for kind in ("plain", "5 %", "far tag, 0.3 %"):
        for n in (1, 2):
            ask(table, engine, kind, n)
            check(store, {"GET": 4}, 260_000)


def test_more_rows_of_an_index_ask_the_store_no_more_often_than_they_did(store: FakeS3) -> None:
    """Most of it are the hundred searches by which recall is measured anew; where nothing is new it is not."""
    tables = Tables.at(URI, storage(store))
    more = pa.RecordBatchReader.from_batches(schema(DIM), chunks(MORE_ROWS, DIM, "clustered"))
    lance.write_dataset(more, tables.uri(), mode="append", storage_options=tables.options)
    for most, most_bytes in (({"GET": 362, "PUT": 30, "HEAD": 1}, 55_600_000), ({"GET": 40}, 290_000)):
        taken(store)
        build_index(URI, storage=storage(store))
        check(store, most, most_bytes)


def check(store: FakeS3, most: dict[str, int], most_bytes: int) -> None:
    requests, sent = taken(store)
    assert requests.keys() <= most.keys()
    assert all(requests[method] <= 1.1 * number for method, number in most.items()), requests
    assert sent <= 1.1 * most_bytes
