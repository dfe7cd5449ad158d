"""YAML as clipmill's files use it: one document of keys, lists and plain values, with no surprises.

Against `yaml.safe_load`: a key given twice is an error instead of the last one winning, keys are text, anchors and
aliases are refused (a few lines of them can stand for gigabytes), and the line of every key is kept for messages.
"""

from typing import Any

import yaml

from clipmill.schemas.errors import UserError

Lines = dict[tuple[str | int, ...], int]
MAX_BYTES = 16_000_000
_MAX_DEPTH = 32
# libyaml's reader where PyYAML was built with it: ten times faster on a vocabulary of 100,000 labels.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_yaml(text: str, name: str) -> tuple[Any, Lines]:
    """The document, and the 1-based line of each key or item by its path. `name` is the file, for messages.

    Raises UserError naming the file and the line.
    """
    if len(text) > MAX_BYTES:
        raise UserError(
            f"{name} holds {len(text):,} characters, more than the {MAX_BYTES:,} allowed", "is it the right file?"
        )
    lines: Lines = {}
    try:
        _scan(text, name)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None, lines
            _check(node, (), lines, name)
            return loader.construct_document(node), lines
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if mark and "scanning an a" in (error.context or ""):  # an alias or an anchor, `*.tar` for one
            raise _no_alias(f"{name}, line {mark.line + 1}") from None
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(
            f"{name}{where}: this is not YAML: {error.problem or 'it cannot be read'}",
            "look for a missing colon, quote or indentation there or just above; values with `: ` or `#` need quotes",
        ) from None
    except yaml.YAMLError as error:
        raise UserError(f"{name} is not YAML: {str(error).splitlines()[0]}", "save it as plain UTF-8 text") from None
    except ValueError as error:  # a date or number that only looks like one, such as 2024-13-45
        raise UserError(f"{name}: a value cannot be read: {error}", "quote the value to keep it as text") from None


def _no_alias(where: str) -> UserError:
    return UserError(
        f"{where}: YAML anchors and aliases (& and *) are not supported",
        "write the value out where it is used, or quote it where & or * belongs to the text",
    )


def _scan(text: str, name: str) -> None:
    """What must be known before the document is built: aliases, and nesting so deep that building it would recurse
    without end."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        where = f"{name}, line {event.start_mark.line + 1 if event.start_mark else '?'}"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _no_alias(where)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise UserError(f"{where}: values are nested more than {_MAX_DEPTH} levels deep", "is it the right file?")


def _check(node: yaml.Node, path: tuple[str | int, ...], lines: Lines, name: str) -> None:
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
            _check(item, (*path, index), lines, name)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                shown = f"'{key.value}'" if isinstance(key, yaml.ScalarNode) else "a key"
                raise UserError(f"{name}, line {line}: {shown} is not a text key", "put it in quotes")
            here = (*path, key.value)
            if here in lines:
                raise UserError(
                    f"{name}, line {line}: '{key.value}' is given twice, first on line {lines[here]}",
                    "keep one of them",
                )
            lines[here] = line
            _check(value, here, lines, name)
