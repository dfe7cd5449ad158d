"""The checker of the architecture is itself checked: what is planted against the table makes it fail, either way."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.house import test_architecture as house

Plant = Callable[[str, str], str]


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plant:
    """Adds a module that is not there to the house: (its full name, its text) -> its name."""

    def add(name: str, text: str) -> str:
        path = tmp_path / f"{name}.py"
        path.write_text(text, "utf-8")
        monkeypatch.setitem(house.MODULES, name, path)
        return name

    return add


AGAINST = {
    "nouns know no verbs": ("schemas.planted", "from clipmill.workers import tag"),
    "verbs know no decisions": ("workers.planted", "from clipmill.jobs.table.tables import Tables"),
    "up the road": ("jobs.table.planted", "from clipmill.jobs.querying.open import open_table"),
    "up the road, late": ("jobs.table.planted", "def f():\n    import clipmill.jobs.querying.open"),
    "up the road, for types": (
        "jobs.table.planted",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from clipmill.jobs.cli import main",
    ),
    "up the road, relative": ("jobs.table.planted", "from ..querying import open"),
    "up the road, a room's name": ("jobs.table.planted", "from clipmill.jobs import querying"),
    "down the road without an arrow": ("jobs.serving.planted", "from clipmill.jobs.committing.lease import Lease"),
    "to the command line": ("jobs.running.planted", "from clipmill.jobs.cli.main import main"),
    "to the tests": ("jobs.running.planted", "from tests.build import picture"),
    "in no room": ("jobs.planted", "import os"),
}


@pytest.mark.parametrize("name", AGAINST)
def test_an_import_against_the_table_fails(plant: Plant, name: str) -> None:
    with pytest.raises(AssertionError, match="planted"):
        house.test_rooms_import_what_the_table_says(plant(*AGAINST[name]))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("jobs.querying.planted", "from clipmill.jobs.table.tables import Tables"),
        ("jobs.querying.planted", "from . import open\nfrom ..table import tables"),
        ("workers.planted", "from clipmill.schemas import units\nfrom clipmill.workers.store import fs\nimport numpy"),
    ],
)
def test_an_import_that_the_table_allows_does_not(plant: Plant, name: str, text: str) -> None:
    house.test_rooms_import_what_the_table_says(plant(name, text))


@pytest.mark.parametrize("text", ["from clipmill import open_table", "import clipmill\nclipmill.embed"])
def test_the_front_door_used_from_inside_fails(plant: Plant, text: str) -> None:
    with pytest.raises(AssertionError, match="planted uses clipmill"):
        house.test_nobody_in_the_house_uses_its_front_door(plant("workers.planted", text))


def test_an_owner_who_does_not_import_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(house.OWNERS, "fastapi", ("jobs.serving.*", "jobs.demo.*"))
    with pytest.raises(AssertionError, match=r"jobs\.demo"):
        house.test_heavy_libraries_have_owners("fastapi")


def test_an_arrow_that_nobody_uses_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    house.test_every_arrow_of_the_table_is_used()
    monkeypatch.setitem(house.ROOMS, "jobs.terminal", "workers.store")
    with pytest.raises(AssertionError, match=r"'jobs\.terminal', 'workers\.store'"):
        house.test_every_arrow_of_the_table_is_used()


def test_an_arrow_up_the_road_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    house.test_the_table_of_rooms_is_the_order_of_the_road()
    monkeypatch.setitem(house.ROOMS, "jobs.table", house.ROOMS["jobs.table"] + " jobs.querying")
    with pytest.raises(AssertionError, match=r"'jobs\.table', 'jobs\.querying'"):
        house.test_the_table_of_rooms_is_the_order_of_the_road()


def test_a_circle_fails_even_where_one_of_its_imports_is_late(plant: Plant) -> None:
    plant("jobs.table.planted", "from clipmill.jobs.table import planted_too")
    house.test_no_two_modules_import_each_other()
    plant("jobs.table.planted_too", "def f():\n    from clipmill.jobs.table.planted import x")
    with pytest.raises(AssertionError, match=r"planted -> jobs\.table\.planted_too -> jobs\.table\.planted"):
        house.test_no_two_modules_import_each_other()


def test_a_folder_of_that_name_that_may_be_a_strangers_fails(plant: Plant) -> None:
    plant("jobs.table.planted", "from jobs.table.tables import Tables")
    with pytest.raises(AssertionError, match=r"jobs\.table\.planted imports"):
        house.test_the_code_imports_itself_by_its_one_name()


def test_a_heavy_library_fails_outside_its_rooms(plant: Plant) -> None:
    plant("jobs.table.planted", "def f():\n    import ray.util")
    with pytest.raises(AssertionError, match=r"ray is imported by \['jobs\.table\.planted'\]"):
        house.test_heavy_libraries_have_owners("ray")
    plant("workers.planted", "import ray")
    with pytest.raises(AssertionError, match="planted"):
        house.test_only_the_actor_imports_ray_in_workers()


@pytest.mark.parametrize("light", ["jobs.planning.plan", "jobs.cli.main"])
def test_a_heavy_library_fails_below_the_command_line(plant: Plant, light: str) -> None:
    """Two modules further on, where importing the one loads the other."""
    text = house.MODULES[light].read_text("utf-8")
    plant("schemas.planted", "import pandas")
    plant("jobs.table.planted", "from clipmill.schemas import planted")
    plant(light, f"{text}\n\ndef f():\n    from clipmill.jobs.table import planted\n")
    house.test_light_modules_load_nothing_heavy(light)
    plant(light, f"{text}\n\nfrom clipmill.jobs.table import planted\n")
    with pytest.raises(AssertionError, match=r"loads pandas through schemas\.planted"):
        house.test_light_modules_load_nothing_heavy(light)


@pytest.mark.parametrize("parameters", ["a, b, c, d, e, f, g", "self, a, b, c, /, d, e, *, f, g"])
def test_a_seventh_parameter_fails(plant: Plant, parameters: str) -> None:
    house.test_files_and_functions_are_short(plant("jobs.table.planted", "def f(self, a, b, c, d, e, *, f):\n    ..."))
    with pytest.raises(AssertionError, match="has 7 parameters"):
        house.test_files_and_functions_are_short(plant("jobs.table.planted", f"def f({parameters}):\n    ..."))
