"""Ray's own start is left as it was, whatever happens within."""

import pytest
from ray._private import node, services, utils

from clipmill.jobs.cluster.small_start import small_start


def test_what_is_left_out_is_there_again_afterwards() -> None:
    def found() -> list[object]:
        left_out = [node.Node.start_monitor, node.Node.start_log_monitor, node.Node.start_api_server]
        return [*left_out, services.start_ray_process, utils.get_dashboard_dependency_error]

    before = found()
    with pytest.raises(RuntimeError, match="no room"), small_start():
        assert not set(before) & set(found())
        assert utils.get_dashboard_dependency_error() is None, "and imports no web server to find it out"
        raise RuntimeError("no room")
    assert found() == before
