"""What `-n 2` keeps together, and what it begins with."""

from types import SimpleNamespace
from typing import Any

import pytest

from tests.side_by_side import first, scheduler


def test_a_file_stays_together_and_so_do_those_of_one_cluster() -> None:
    pytest.importorskip("xdist")

    class Config:
        option = SimpleNamespace(loadscopereorder=True)

        def getvalue(self, name: str) -> list[str]:
            return ["popen"]

    config: Any = Config()
    scope = scheduler(config, None)._split_scope
    assert not config.option.loadscopereorder
    assert scope("tests/read/test_zip.py::test_a[x/y::z]") == scope("tests/read/test_zip.py::TestB::test_c")
    assert scope("tests/read/test_zip.py::test_a") != scope("tests/read/test_lists.py::test_a")
    assert scope("tests/integration/test_ids.py::test_a") == scope("tests/integration/test_moves.py::test_b")
    assert scope("tests/integration/alone/test_node.py::test_a") != scope("tests/integration/test_moves.py::test_b")


def test_what_is_long_begins_first_and_else_the_order_stays() -> None:
    class Named:
        def __init__(self, nodeid: str) -> None:
            self.nodeid = nodeid

    names = ["tests/cli/test_a.py::x", "tests/chaos/test_chaos.py::y", "tests/read/test_b.py::z"]
    items = [Named(name) for name in names]
    first(items)  # type: ignore[arg-type]
    assert [item.nodeid for item in items] == [names[1], names[0], names[2]]
