"""A table of 3,000 rows with every index, built once; and one without any."""

from pathlib import Path

import pytest

from tests.tables import TableOptions, WordEngine, make_table


@pytest.fixture(scope="session")
def engine() -> WordEngine:
    return WordEngine()


@pytest.fixture(scope="session")
def plain_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """No index at all."""
    return make_table(tmp_path_factory.mktemp("plain"), TableOptions(rows=600))


@pytest.fixture(scope="session")
def indexed_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """IVF_RQ (forced, for so few rows), scalar and full-text indices."""
    from clipmill.jobs.indexing.build import IndexOptions, build_index

    folder: Path = tmp_path_factory.mktemp("indexed")
    uri = make_table(folder, TableOptions(rows=3000))
    build_index(uri, IndexOptions(kind="ivf_rq"))
    return uri
