"""hf://: data sets of the Hugging Face Hub through its own client, on a server that answers as the Hub does."""

import io
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest
import xxhash

from clipmill.jobs.planning.surveying.survey import survey
from clipmill.schemas.errors import EmptySource, SourceChanged
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit.samples import Sample
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.read import read_unit
from clipmill.workers.read.original import Place, fetch_image
from clipmill.workers.store import errors, fs
from clipmill.workers.store.storage import StoreUnavailable
from tests.build import parquet, picture, tar
from tests.fake_hub import Hub, hub

pytest.importorskip("huggingface_hub")
LOCAL = Storage()


def forget() -> None:
    """As another process would."""
    from huggingface_hub import HfFileSystem

    fs._CACHE.clear()
    HfFileSystem.clear_instance_cache()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    with hub() as found:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, found.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        forget()
        yield found
    forget()


def units_of(format: str, uri: str, **options: Any) -> tuple[Source, list[WorkUnit]]:
    source = Source(format=format, uri=f"hf://datasets/o/n{uri}", **options)
    return source, list(survey(source, LOCAL, Limits()))


def images(source: Source, units: list[WorkUnit]) -> list[bytes]:
    found = [one for unit in units for one in read_unit(unit, source, LOCAL, Limits())]
    return [one.image for one in found if isinstance(one, Sample)]


def test_a_data_set_is_read_where_it_lies(served: Hub) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.jpg", picture(6))
    served.files = {
        "data/train-0.parquet": parquet({"image": [picture(n) for n in range(3)]}),
        "data/train-1.parquet": parquet({"image": [picture(3)]}),
        "pictures/cat/a.jpg": picture(4),
        "pictures/cat/a.txt": b"a cat",
        "shards/0.tar": tar([("a.jpg", picture(5))]),
        "archives/a.zip": packed.getvalue(),
        "README.md": b"---\n",
    }
    assert images(*units_of("parquet", "/data/*.parquet")) == [picture(n) for n in range(4)]
    assert served.ranges, "by ranges"
    assert images(*units_of("parquet", "@main/data/")) == [picture(n) for n in range(4)]
    assert images(*units_of("files", "/pictures/", caption="txt")) == [picture(4)]
    assert images(*units_of("zip", "/archives/a.zip")) == [picture(6)]
    source, units = units_of("webdataset", "/shards/")
    (found,) = read_unit(units[0], source, LOCAL, Limits())
    assert isinstance(found, Sample)
    place = Place(
        uri=found.uri,
        offset=found.image_offset,
        size=found.image_size,
        image_hash=xxhash.xxh3_128_hexdigest(found.image),
    )
    assert fetch_image(place, LOCAL) == picture(5)


def test_other_bytes_of_one_length_are_another_unit(served: Hub) -> None:
    """The Hub shows no date in a listing; the hash of the content is what tells."""
    served.files = {"0.tar": tar([("a.jpg", b"1")]), "1.tar": tar([("a.jpg", b"3")])}
    source, before = units_of("webdataset", "/")
    forget()
    served.files = {**served.files, "0.tar": tar([("a.jpg", b"2")])}
    _, after = units_of("webdataset", "/")
    assert [a.unit_id == b.unit_id for a, b in zip(before, after, strict=True)] == [False, True]
    with pytest.raises(SourceChanged):
        images(source, before[:1])


def test_what_is_not_there_or_not_up_is_said(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EmptySource, match="hf://datasets/o/n/nothing/"):
        units_of("files", "/nothing/")
    with pytest.raises(EmptySource, match="hf://datasets/o/other/"):
        list(survey(Source(format="files", uri="hf://datasets/o/other/"), LOCAL, Limits()))
    monkeypatch.setattr(errors, "ATTEMPTS", 2)
    monkeypatch.setattr(errors, "_WAIT", lambda state: 0)
    forget()
    served.status = 503
    with pytest.raises(StoreUnavailable):
        units_of("files", "/pictures/")
