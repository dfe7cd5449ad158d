"""Values as literals of the language that they are printed in. All of them are one line of printable text (`night.py`
refuses the rest), which spares every language its escapes for control characters."""

import json
import shlex


def shell(value: str) -> str:
    return shlex.quote(value)


def crontab(text: str) -> str:
    """A shell command as a crontab holds it: a bare % ends the command there. No backslash of another kind may stand in
    `text`: crons differ in what they make of two."""
    return text.replace("%", r"\%")


def yaml(value: str) -> str:
    """JSON's strings are YAML's double-quoted ones."""
    return json.dumps(value, ensure_ascii=False)


def kube(value: str) -> str:
    """As YAML, and safe from Kubernetes, which replaces $(NAME) in commands, arguments and environments."""
    return yaml(value.replace("$", "$$"))


def systemd(value: str) -> str:
    """A word of ExecStart=: quoted with C's escapes, % doubled against specifiers, $ against variables."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def systemd_path(value: str) -> str:
    """The value of WorkingDirectory= or Description=, which take the rest of the line as it is but for specifiers."""
    return value.replace("%", "%%")


def python(value: str | list[str]) -> str:
    return repr(value)
