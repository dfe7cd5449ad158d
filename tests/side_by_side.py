"""How `pytest -n 2` divides the tests: what shares something dear stays together, and what is long begins first."""

from typing import Any

import pytest

# One Ray cluster for all files that lie directly in it.
_SHARED = "tests/integration"
_LONG = ("tests/integration/test_", "tests/chaos/", "tests/publishing/month/", "tests/cluster/")


def scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class BySharing(LoadScopeScheduling):
        """The tests of a file share what it made, and stay with one process."""

        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            folder = file.rpartition("/")[0]
            return folder if folder == _SHARED else file

    config.option.loadscopereorder = False  # the number of a file's tests says little of its time
    return BySharing(config, log)


def first(items: list[pytest.Item]) -> None:
    """The order is else that of the folders, and kept: a process that began a long file last would end alone."""
    items.sort(key=lambda item: not item.nodeid.startswith(_LONG))
