"""Holds the code to its picture: who may import whom, who owns which heavy library, and how long things may get."""

import ast
import functools
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("schemas", "workers", "jobs")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# Every room and the rooms it may import from, in the order of the road. A room may always use its own modules and
# `schemas`. `workers` without a name are the modules at its top: the unit loop and what an engine is.
ROOMS = {
    "schemas": "",
    "workers.store": "",
    "workers.read": "workers.store",
    "workers.decode": "",
    "workers.naming": "",
    "workers.clip": "workers workers.decode workers.naming",
    "workers": "workers.store workers.read workers.decode workers.clip workers.naming",
    "jobs.terminal": "",
    "jobs.observing": "",
    "jobs.table": "workers workers.store workers.read",
    "jobs.committing": "jobs.table workers workers.store workers.read",
    "jobs.cluster": "jobs.terminal workers workers.naming",
    "jobs.querying": "jobs.table workers workers.store workers.decode",
    "jobs.indexing": "jobs.table jobs.cluster jobs.querying workers.store",
    "jobs.planning": "jobs.table jobs.committing workers workers.store workers.read workers.naming",
    "jobs.running": "jobs.terminal jobs.observing jobs.table jobs.committing jobs.cluster jobs.indexing jobs.planning "
    "workers workers.store workers.naming",
    "jobs.importing": "jobs.table jobs.committing jobs.planning jobs.running workers workers.store workers.read "
    "workers.naming",
    "jobs.verifying": "jobs.table jobs.committing jobs.querying jobs.indexing jobs.planning "
    "workers workers.store workers.read",
    "jobs.exploring": "jobs.table jobs.querying jobs.indexing workers workers.store workers.decode",
    "jobs.selecting": "jobs.table jobs.querying jobs.indexing jobs.planning jobs.exploring workers workers.store",
    "jobs.pushing": "jobs.table jobs.querying jobs.planning jobs.verifying workers.store workers.read",
    "jobs.maintaining": "jobs.table jobs.committing jobs.querying jobs.indexing jobs.running jobs.verifying "
    "workers.store",
    "jobs.migrating": "jobs.terminal jobs.table jobs.committing jobs.cluster jobs.querying jobs.indexing jobs.planning "
    "jobs.running jobs.exploring jobs.maintaining workers workers.store workers.read workers.naming",
    "jobs.publishing": "jobs.table jobs.committing jobs.querying jobs.indexing jobs.planning jobs.running "
    "jobs.exploring jobs.maintaining jobs.migrating workers.store workers.read",
    "jobs.scheduling": "",
    "jobs.reporting": "jobs.table jobs.querying jobs.verifying jobs.exploring jobs.publishing "
    "workers.store workers.decode",
    "jobs.serving": "jobs.table jobs.querying jobs.exploring workers workers.store workers.decode",
    "jobs.demo": "jobs.terminal jobs.table jobs.querying jobs.indexing jobs.planning jobs.running jobs.verifying "
    "jobs.exploring workers.store",
    "jobs.cli": "jobs.terminal jobs.table jobs.querying jobs.indexing jobs.planning jobs.running jobs.importing "
    "jobs.verifying jobs.exploring jobs.selecting jobs.pushing jobs.maintaining jobs.migrating jobs.publishing "
    "jobs.cluster jobs.scheduling jobs.reporting jobs.serving jobs.demo workers.store",
}
# The one arrow that points back up the road: an engine is declared beside the loop that calls it, and CLIP is one.
BACK = {("workers.clip", "workers")}

# Library -> the modules (or rooms) that may import it, wherever in the file.
OWNERS = {
    "ray": (
        "workers.actor",
        "jobs.cluster.*",
        "jobs.running.actors.deaths",
        "jobs.running.actors.dispatch",
        "jobs.running.actors.sizing",
        "jobs.running.actors.slots",
        "jobs.running.actors.workforce",
        "jobs.indexing.cluster",
        "jobs.observing.ray_exporter",
    ),
    "torch": ("workers.clip.*", "workers.decode.preprocess", "workers.heads_file", "jobs.indexing.on_device"),
    "open_clip": ("workers.clip.*",),
    "s3fs": ("workers.store.*",),
    "botocore": ("workers.store.*",),
    # In workers. On the driver lance belongs to the modules around the table, too many to list.
    "lance": ("workers.write", "workers.read.tables.lance_table", "jobs.*"),
    "lancedb": (),  # tables are written by lance; plain clients read them, tests among these
    "fastapi": ("jobs.serving.*",),
    "py3langid": ("jobs.selecting.language",),
}
# Imported at module level by nobody but their owners: `clipmill --help`, planning and reading a job file stay light.
LATE_ONLY = ("torch", "torchvision", "open_clip", "ray", "lance", "lancedb", "pandas", "s3fs", "fastapi", "matplotlib")
# What the command line, planning and reading of a job file import; nothing heavy may hang on any of them.
LIGHT = (
    "jobs.planning.jobfile",
    "jobs.planning.plan",
    "jobs.planning.surveying.survey",
    "jobs.terminal.output",
    "schemas.job.config",
    "schemas.job.vocabulary",
    "workers.tag",
    "workers.naming.names",
)

# The aim is 300 and 60 lines; this is where a build fails, so that a fix of three lines need not split a file.
MAX_FILE_LINES = 350
MAX_FUNCTION_LINES = 75
MAX_PARAMETERS = 6
# Whoever must be longer says why here.
LONGER: dict[str, str] = {}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


@functools.cache
def _walked(text: str) -> tuple[ast.AST, ...]:
    """The nodes of a module, itself first; by its text, so that a planted module is the only one walked anew."""
    return tuple(ast.walk(ast.parse(text)))


@functools.cache
def _imports_of(text: str) -> tuple[ast.AST, ...]:
    return tuple(node for node in _walked(text) if isinstance(node, ast.Import | ast.ImportFrom))


def text_of(name: str) -> str:
    return MODULES[name].read_text("utf-8")


def tree(name: str) -> ast.Module:
    module = _walked(text_of(name))[0]
    assert isinstance(module, ast.Module)
    return module


def imports(name: str, *, at_top: bool = False) -> Iterator[str]:
    """Full names of what a module imports. `at_top`: only what importing the module itself loads."""
    nodes: list[ast.AST] = list(tree(name).body) if at_top else list(_imports_of(text_of(name)))
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            yield from (ours(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".") if MODULES[name].name == "__init__.py" else name.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                whole = ours(f"{base}.{alias.name}")
                yield whole if whole in MODULES else ours(base)
        elif at_top and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not _type_checking(node):
            nodes += ast.iter_child_nodes(node)


def _type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def ours(name: str) -> str:
    """Names in here are without the package around them, as in the table of rooms."""
    return name.removeprefix("clipmill.")


def room(name: str) -> str | None:
    """The room of one of our modules; None for other people's."""
    parts = name.split(".")
    if parts[0] not in PACKAGES:
        return None
    return max((title for title in ROOMS if f"{name}.".startswith(f"{title}.")), key=len, default=parts[0])


def top(name: str) -> str:
    return name.split(".")[0]


def owned_by(name: str, owners: tuple[str, ...]) -> bool:
    return any(name == owner or (owner.endswith("*") and name.startswith(owner[:-1])) for owner in owners)


@pytest.mark.parametrize("name", [name for name in MODULES if top(name) == "schemas"])
def test_schemas_import_nobody(name):
    allowed = {"schemas", "pyarrow", "numpy", "pydantic", "pydantic_core", "yaml", "xxhash"}
    import sys

    others = {top(found) for found in imports(name)} - allowed - set(sys.stdlib_module_names)
    assert not others


@pytest.mark.parametrize("name", MODULES)
def test_rooms_import_what_the_table_says(name):
    mine = room(name)
    if name in PACKAGES and name not in ROOMS:
        assert not list(imports(name)), f"{name}/__init__.py is a sentence"
        return
    assert mine in ROOMS, f"{name} lies in no room"
    allowed = {mine, "schemas", *ROOMS[mine].split()}
    for found in imports(name):
        assert room(found) in {None, *allowed}, f"{name} ({mine}) imports {found} ({room(found)})"
        assert top(found) not in ("tests", "benchmarks", "training"), f"{name} imports {found}"


def test_the_table_of_rooms_is_the_order_of_the_road():
    order = list(ROOMS)
    back = {(one, other) for one in ROOMS for other in ROOMS[one].split() if order.index(other) > order.index(one)}
    assert back == BACK


def test_every_arrow_of_the_table_is_used():
    """What no module needs any more leaves the table, so that it shows the house as it is."""
    used = {(room(name), room(found)) for name in MODULES for found in imports(name)}
    assert not [(one, other) for one in ROOMS for other in ROOMS[one].split() if (one, other) not in used]


@pytest.mark.parametrize("title", [name for name, path in MODULES.items() if path.name == "__init__.py"])
def test_every_room_says_what_it_is_for(title):
    """Also those inside a room, which share its arrows."""
    said = ast.get_docstring(tree(title))
    assert said, f"{title}/__init__.py says nothing"
    assert said.split("\n\n")[0].endswith((".", ":", ";")), said


def test_no_two_modules_import_each_other():
    """Not even late, inside a function: two that need each other are one, or want a third."""
    graph = {name: {found for found in imports(name) if found in MODULES and found != name} for name in MODULES}
    done: set[str] = set()

    def visit(name: str, road: tuple[str, ...]) -> None:
        assert name not in road, " -> ".join([*road[road.index(name) :], name])
        if name not in done:
            for found in sorted(graph[name]):
                visit(found, (*road, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())


def test_the_code_imports_itself_by_its_one_name():
    """`import jobs` finds a stranger's folder; only `clipmill.jobs` is ours."""
    for name in MODULES:
        for node in _imports_of(text_of(name)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not [found for found in names if found.split(".")[0] in PACKAGES], f"{name} imports {names}"


@pytest.mark.parametrize("name", MODULES)
def test_nobody_in_the_house_uses_its_front_door(name):
    """The public names are for other programs: behind them are all rooms, so that any arrow could hide there. Where the
    package lies may be asked."""
    for node in _walked(text_of(name)):
        names = []
        if isinstance(node, ast.ImportFrom) and not node.level and node.module == "clipmill":
            names = [alias.name for alias in node.names if alias.name not in PACKAGES]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "clipmill":
            names = [] if node.attr in ("__file__", *PACKAGES) else [node.attr]
        assert not names, f"{name} uses clipmill.{names[0]}: name the module that it comes from"


def test_the_front_door_is_light():
    """Behind it everything is late, or `import clipmill` would load it for everybody."""
    for path in sorted((ROOT / "clipmill").glob("*.py")):
        assert path.name in ("__init__.py", "__main__.py"), f"{path.name} is in no room"
        found = [
            node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.Import | ast.ImportFrom)
        ]
        names = [alias.name for node in found if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module or "" for node in found if isinstance(node, ast.ImportFrom)]
        allowed = sys.stdlib_module_names | {"clipmill"}
        assert {top(one) for one in names} <= allowed, f"{path.name} imports {names}"


@pytest.mark.parametrize("library", OWNERS)
def test_heavy_libraries_have_owners(library):
    users = {name for name in MODULES if any(top(found) == library for found in imports(name))}
    strangers = {name for name in users if not owned_by(name, OWNERS[library])}
    assert not strangers, f"{library} is imported by {sorted(strangers)}, and belongs to {OWNERS[library]}"
    idle = [owner for owner in OWNERS[library] if not any(owned_by(name, (owner,)) for name in users)]
    assert not idle, f"{library} belongs to {idle}, who do not import it"


def test_only_the_actor_imports_ray_in_workers():
    users = {name for name in MODULES if top(name) == "workers" and any(top(found) == "ray" for found in imports(name))}
    assert users <= {"workers.actor"}


@pytest.mark.parametrize("name", [*LIGHT, *(name for name in MODULES if name.startswith("jobs.cli"))])
def test_light_modules_load_nothing_heavy(name):
    """Follows module-level imports through our own packages."""
    seen, todo = set(), [name]
    while todo:
        here = todo.pop()
        if here in seen or here not in MODULES:
            continue
        seen.add(here)
        for found in imports(here, at_top=True):
            assert top(found) not in LATE_ONLY, f"{name} loads {found} through {here}"
            todo.append(found)


@pytest.mark.parametrize("name", MODULES)
def test_files_and_functions_are_short(name):
    lines = len(text_of(name).splitlines())
    assert lines <= MAX_FILE_LINES or name in LONGER, f"{name} has {lines} lines"
    for node in _walked(text_of(name)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        length = (node.end_lineno or 0) - node.lineno + 1
        assert length <= MAX_FUNCTION_LINES or f"{name}.{node.name}" in LONGER, f"{name}.{node.name}: {length} lines"
        parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = sum(parameter.arg not in ("self", "cls") for parameter in parameters)
        # Click hands a command every option as a parameter of its own.
        limit = 12 if name.startswith("jobs.cli.") else MAX_PARAMETERS
        assert count <= limit, f"{name}.{node.name} has {count} parameters"


def test_no_machine_path_or_credential_is_written_down():
    """The project runs anywhere: no path of one machine, no package mirror, no key."""
    import subprocess

    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    words = ["/" + "work/", "/" + "root/", "/" + "home/", "/" + "Users/", "C:\\" + "Users\\"]
    key = re.compile(r"(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_[0-9A-Za-z]{36}")
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.suffix in (".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".lock", ".sh", "") and path.is_file():
            text = path.read_bytes().decode("utf-8", "replace")
            assert not [word for word in words if word in text], f"{name} names a path of one machine"
            keys = [found for found in key.findall(text) if not found.endswith("EXAMPLE")]  # AWS's own for documents
            assert not keys, f"{name} holds a key"
