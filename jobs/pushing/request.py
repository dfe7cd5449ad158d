"""What is asked of `push`: where to, which rows, under which licence; and the mistakes that are seen at once."""

import re
from dataclasses import dataclass
from typing import Literal

from clipmill.schemas.errors import UserError

Format = Literal["parquet", "lance"]
HUB = "hf://"
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class PushOptions:
    """`repo`: OWNER/NAME on the Hub, empty for none. `folder`: a new folder, instead of the Hub or for a dry run.

    `columns`: None for all but thumbnails and sets under way; `shard_rows`: of a data file. `float32`: vectors in it
    instead of the table's float16. `license`: of the data set as the Hub names it; `license_column`: where each row
    says its own; None for `license` or `licence`, where the table has it. `root`: what addresses are written relative
    to, None for the folder of a source on this disk; `base`: what is put in its place. `private`, `revision` and
    `message` are of the Hub.
    """

    repo: str = ""
    folder: str = ""
    form: Format = "parquet"
    where: str | None = None
    columns: tuple[str, ...] | None = None
    shard_rows: int = 100_000
    float32: bool = False
    license: str | None = None
    license_column: str | None = None
    root: str | None = None
    base: str = ""
    private: bool = False
    revision: str = "main"
    message: str = ""


def parse_target(to: str) -> tuple[str, str]:
    """(repo, folder), one of them empty. Raises UserError for what is neither."""
    if not to:
        raise UserError("nothing says where to push to", f"{HUB}OWNER/NAME, or a new folder")
    if not to.startswith(HUB):
        if "://" in to:
            raise UserError(
                f"push writes to {HUB}OWNER/NAME or to a folder of this machine, not to {to}",
                "`clipmill export TABLE --to URI` writes files to a store",
            )
        return "", to
    kind, _, rest = to.removeprefix(HUB).rstrip("/").rpartition("datasets/")
    owner, slash, name = rest.partition("/")
    if "@" in to:
        raise UserError(f"{to} names a revision", "name it by --revision")
    if kind or not slash or not all(_is_name(one) for one in (owner, name)):
        raise UserError(f"{to} is no data set of the Hub", f"write {HUB}OWNER/NAME, such as {HUB}me/my-pictures")
    return f"{owner}/{name}", ""


def parse_dry_run(folder: str | None) -> str:
    """The folder; empty for None only: where a script's variable is empty, nothing may go to the Hub."""
    if folder is None:
        return ""
    if not folder or "://" in folder:
        raise UserError(f"--dry-run '{folder}' is no folder of this machine", "name a new folder")
    return folder


def _is_name(text: str) -> bool:
    """As the Hub takes names of owners and repositories."""
    is_odd = "--" in text or ".." in text or text.endswith((".", "-", ".git"))
    return bool(_REPO.fullmatch(text)) and not is_odd


def check_license(name: str | None) -> None:
    """Raises UserError for what cannot be a licence's name on the Hub, which knows them by short names."""
    if name is not None and not _LICENSE.fullmatch(name):
        raise UserError(
            f"'{name}' is no licence as the Hub names them",
            "such as cc-by-4.0, cc0-1.0, mit, other or unknown: huggingface.co/docs/hub/repositories-licenses",
        )
