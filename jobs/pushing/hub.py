"""The data set's repository on the Hugging Face Hub, through the Hub's own client: looked at before anything is made,
and then changed by one commit, so that nobody ever sees half of a version."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipmill.jobs.pushing.files import DATA, REJECTS
from clipmill.jobs.pushing.request import PushOptions
from clipmill.schemas.errors import UserError
from clipmill.schemas.installed import require
from clipmill.schemas.text.secrets import one_line
from clipmill.schemas.text.words import counted
from clipmill.workers.store.answers import answer_of, chain, is_network
from clipmill.workers.store.errors import StoreBusy, StoreUnavailable

MARKER = "clipmill.json"  # whoever has it was made by `push`, and is made anew by it
_GIVEN = frozenset((".gitattributes",))  # what the Hub puts into a new repository
_TYPE = "dataset"
_TOKEN_HINT = "set HF_TOKEN, or run `hf auth login`, with a token that may write: huggingface.co/settings/tokens"  # noqa: S105


@dataclass(frozen=True, slots=True, kw_only=True)
class Repository:
    """As it was found. `head`: the commit that is to be followed; empty where there is none, and `files` are of it."""

    exists: bool
    head: str
    files: tuple[str, ...]
    has_branch: bool


def look(options: PushOptions) -> Repository:
    """Raises UserError where this repository cannot be pushed to: no token, no rights, or somebody else's files."""
    require("pushing to the Hub", "huggingface_hub")
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    if not get_token():
        raise UserError("nobody is logged in to the Hugging Face Hub", _TOKEN_HINT)
    api = HfApi()
    with _hub_errors(options.repo):
        _check_owner(api.whoami(), options.repo)
        try:
            info = api.repo_info(options.repo, repo_type=_TYPE)
        except RepositoryNotFoundError:
            return Repository(exists=False, head="", files=(), has_branch=False)
        if options.private and not info.private:
            raise UserError(
                f"{options.repo} is there already, and everybody can read it",
                "leave out --private, choose another name, or make it private on the Hub first",
            )
        try:
            head = api.repo_info(options.repo, repo_type=_TYPE, revision=options.revision).sha
            has_branch, revision = True, options.revision
        except RevisionNotFoundError:
            head, has_branch, revision = info.sha, False, None
        files = tuple(api.list_repo_files(options.repo, repo_type=_TYPE, revision=revision))
    foreign = [name for name in files if name not in _GIVEN]
    if foreign and MARKER not in files:
        raise UserError(
            f"the name is taken: {options.repo} holds files that `clipmill push` did not write, such as {foreign[0]}",
            "choose another name, or remove them there first",
        )
    return Repository(exists=True, head=head or "", files=files, has_branch=has_branch)


def _check_owner(who: dict[str, Any], repo: str) -> None:
    owner = repo.partition("/")[0]
    names = [str(who.get("name", "")), *(str(org.get("name", "")) for org in who.get("orgs") or ())]
    role = ((who.get("auth") or {}).get("accessToken") or {}).get("role")
    if role == "read":
        raise UserError("the token for the Hugging Face Hub may only read", _TOKEN_HINT)
    if owner.lower() not in [name.lower() for name in names]:
        raise UserError(
            f"the token for the Hugging Face Hub is of {names[0]}, who may not write to {owner}",
            f"push to hf://{names[0]}/{repo.partition('/')[2]}, or use a token of {owner}",
        )


def upload(folder: Path, found: Repository, options: PushOptions, message: str) -> str:
    """The commit's URL; empty where nothing had changed. Files of the version before that this one has not are
    removed by the same commit."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.utils import logging
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    logging.set_verbosity(40)  # errors alone: what it warns of is told here, in a sentence
    api = HfApi()
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    stale = [name for name in found.files if name.partition("/")[0] in (DATA, REJECTS) and name not in names]
    operations: list[Any] = [CommitOperationDelete(path_in_repo=name) for name in stale]
    operations += [CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(folder / name)) for name in names]
    with _hub_errors(options.repo):
        if not found.exists:
            api.create_repo(options.repo, repo_type=_TYPE, private=options.private or None, exist_ok=True)
        if not found.has_branch and options.revision != "main":
            api.create_branch(options.repo, repo_type=_TYPE, branch=options.revision, exist_ok=True)
        done = api.create_commit(
            options.repo,
            operations,
            repo_type=_TYPE,
            revision=options.revision,
            commit_message=message,
            parent_commit=found.head or None,  # somebody who committed meanwhile is not written over
        )
    return "" if done.oid == found.head else str(done.commit_url)


@contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    """Whatever the Hub, its client or the network says, as one sentence."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        told = _told(error, repo)
        if told is None:
            raise
        raise told from error
    except Exception as error:  # the HTTP client's own, of whichever library the Hub's client uses
        told = _told(error, repo)
        if told is None:
            raise
        raise told from error


def _told(error: Exception, repo: str) -> Exception | None:
    _, status = answer_of(error)
    if any(type(link).__name__ == "OfflineModeIsEnabled" for link in chain(error)):
        return UserError("HF_HUB_OFFLINE is set, so nothing can be pushed", "unset it, or --dry-run DIR")
    if status == 401:
        return UserError("the Hugging Face Hub does not know the token", _TOKEN_HINT)
    if status in (403, 404):
        return UserError(f"the token may not write to the data set {repo} of the Hugging Face Hub", _TOKEN_HINT)
    if status in (409, 412):
        return UserError(
            f"somebody else changed {repo} meanwhile, so nothing was written", "run the same command again"
        )
    if status == 429 or status >= 500:
        return StoreBusy(f"the Hugging Face Hub is too busy or ill ({status})", "run the same command later")
    if status or (isinstance(error, ValueError) and "metadata" in str(error)):
        return UserError(f"the Hugging Face Hub refuses {repo}: {one_line(error)}", "is --license a name it knows?")
    if isinstance(error, ConnectionError | TimeoutError) or any(is_network(link) for link in chain(error)):
        from huggingface_hub import constants

        hint = "check the network, then run the same command again"
        what = f"the Hugging Face Hub does not answer at {constants.ENDPOINT}: {one_line(error)}"
        return StoreUnavailable(what, hint)
    return None


def resume_hint(repo: str, files: int) -> str:
    """After Ctrl-C during an upload."""
    return (
        f"interrupted: nothing of it is visible at {repo}. Run the same command again: of its {counted(files, 'file')} "
        "those that were sent whole are not sent again"
    )
