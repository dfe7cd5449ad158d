"""One Ray cluster for the tests of this folder that run whole jobs."""

from tests.integration.conftest import here, ray_here

__all__ = ["here", "ray_here"]
