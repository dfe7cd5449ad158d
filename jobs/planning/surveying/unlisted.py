"""Pictures that an `imagefolder` holds and its list does not name.

Hugging Face's layout is a folder of pictures with a `metadata.csv`, `.jsonl` or `.parquet` that has a column
`file_name`. A row without a picture is a reject of its own; a picture without a row would be in no sum, so the list's
folder is looked through. Memory: a hash for each row and file.
"""

from collections.abc import Sequence

from clipmill.schemas.job.config import Source, Storage
from clipmill.schemas.unit.left_out import WITHOUT_A_ROW, LeftOut, count, ending_of
from clipmill.workers.read.fields import DEFAULT_IMAGE
from clipmill.workers.read.lists.links import named_by
from clipmill.workers.read.tables.columns import is_metadata
from clipmill.workers.store.storage import list_objects, unquote


def count_unlisted(lists: Sequence[str], source: Source, storage: Storage, left_out: LeftOut) -> None:
    """Count by ending what lies in the folders of these lists, or matches the source's patterns, and is named by no
    row. Raises what reading a list and listing raise."""
    done = {hash(uri) for uri in lists}
    for uri in lists:
        done.update(hash(named) for named in named_by(uri, source, storage))
    folders = [f"{uri.rpartition('/')[0]}/" for uri in lists if is_metadata(uri)]
    if source.images is not None:
        folders.append(f"{source.images.rstrip('/')}/")
    outer = [folder for folder in folders if not any(folder != o and folder.startswith(o) for o in folders)]
    for place in dict.fromkeys([*source.uri, *outer]):

        def passed_over(uri: str, why: str) -> None:
            _count_once(uri, why, done, left_out)

        for item in list_objects(place, storage, passed_over=passed_over):
            ending = ending_of(unquote(item.uri))
            _count_once(item.uri, f"{ending} {WITHOUT_A_ROW}" if ending in DEFAULT_IMAGE else ending, done, left_out)


def _count_once(uri: str, why: str, done: set[int], left_out: LeftOut) -> None:
    if hash(uri) not in done:
        done.add(hash(uri))
        count(left_out, why)
