"""Lists as CSV and TSV: read as Python's csv module reads them where they are well formed; no line lost where not."""

import csv
import io
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipmill.jobs.planning.surveying import slices as survey_slices
from clipmill.jobs.planning.surveying.survey import survey
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit.rejects import Reject
from clipmill.workers.read import read_unit
from clipmill.workers.read.fields import BadField
from clipmill.workers.read.lists.lines import open_rows
from tests.examples import examples

# Without / and . : a line of a caption that is a whole row by itself, link and all, is read as a row.
_CELLS = st.text(st.sampled_from('ab",\t\n\r é'), max_size=8)


def records(path: Path) -> list[Any]:
    """Every row as a dict, or the sentence that says why it is none."""
    found: list[Any] = []
    with open_rows(str(path), Source(format="manifest", uri=str(path)), Storage()) as rows:
        for raw, _ in rows.raw():
            try:
                found.append(rows.record(raw))
            except BadField as error:
                found.append(str(error))
    return found


def written(path: Path, lines: str) -> Path:
    path.write_text(lines, encoding="utf-8", newline="")
    return path


@examples(150)
@given(rows=st.lists(st.tuples(_CELLS, _CELLS), max_size=6), tab=st.booleans(), ends=st.sampled_from(["\n", "\r\n"]))
def test_what_the_csv_module_writes_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], tab: bool, ends: str
) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter="\t" if tab else ",", lineterminator=ends, quoting=csv.QUOTE_ALL)
    writer.writerow(("uri", "caption"))
    table = [(f"{number}.jpg", first + second) for number, (first, second) in enumerate(rows)]
    writer.writerows(table)
    path = written(tmp_path_factory.mktemp("t") / f"m.{'tsv' if tab else 'csv'}", out.getvalue())
    assert [tuple(row.values()) for row in records(path)] == table


@pytest.mark.parametrize(
    ("name", "lines", "expected"),
    [
        ("m.tsv", ['a.jpg\t"Sunset" over the bay'], ['"Sunset" over the bay']),
        ("m.tsv", ['a.jpg\t"hello, he said', "b.jpg\ta cat", "c.jpg\ta dog"], ['"hello, he said', "a cat", "a dog"]),
        ("m.tsv", ['a.jpg\t"hello', "b.jpg\ta cat", 'c.jpg\t24"'], ['"hello', "a cat", '24"']),
        ("m.csv", ['a.jpg,"hello', "b.jpg,a cat", 'c.jpg,"a, b"'], ['"hello', "a cat", "a, b"]),
        ("m.csv", ['a.jpg,a 5" disk', 'b.jpg,say ""no""'], ['a 5" disk', 'say ""no""']),
        ("m.csv", ['a.jpg,"one, two', 'three, four"'], ["one, two\nthree, four"]),
        ("m.csv", ['a.jpg,"a dog', 'in the grass, happy"'], ["a dog\nin the grass, happy"]),
        ("m.csv", ['a.jpg,"a ""big""', '', 'dog"', "b.jpg,x"], ['a "big"\n\ndog', "x"]),
        ("m.tsv", ["a.jpg\tone\rtwo", "b.jpg\t"], ["one\rtwo", ""]),
    ],
)  # fmt: skip
def test_quotes_and_carriage_returns(tmp_path: Path, name: str, lines: list[str], expected: list[str]) -> None:
    header = "uri\tcaption" if name.endswith("tsv") else "uri,caption"
    path = written(tmp_path / name, "\n".join([header, *lines, ""]))
    assert [row["caption"] for row in records(path)] == expected


def test_a_caption_before_its_link_does_not_hide_the_rows_behind_it(tmp_path: Path) -> None:
    lines = ['"hello , he said\thttp://x.example/1', "a cat\thttp://x.example/2", 'of 24"\thttp://x.example/3']
    path = written(tmp_path / "m.tsv", "\n".join(["caption\turl", *lines]))
    assert [row["url"][-1] for row in records(path)] == ["1", "2", "3"]
    whole = ['"first', 'second half"\thttp://x.example/1', "a cat\thttp://x.example/2"]
    path = written(tmp_path / "m.tsv", "\n".join(["caption\turl", *whole]))
    assert [row["caption"] for row in records(path)] == ["first\nsecond half", "a cat"]


def test_a_row_that_cannot_be_parted_is_a_reject_that_shows_it(tmp_path: Path) -> None:
    path = written(tmp_path / "m.csv", 'uri,caption\na.jpg,"hello, he said\nb.jpg,a cat\nuri,caption\n')
    first, second, third = records(path)
    assert first == 'the row has 3 values for 2 columns: a.jpg,"hello, he said'
    assert second == {"uri": "b.jpg", "caption": "a cat"}
    assert third == "the row is the header once more"


def test_lines_inside_quotes_are_counted(tmp_path: Path) -> None:
    """lines = header + rows + lines that went on with a row: a census can be compared with."""
    path = written(tmp_path / "m.csv", 'uri,caption\na.jpg,"x\ny\nz"\nb.jpg,"open\nc.jpg,w\n')
    with open_rows(str(path), Source(format="manifest", uri=str(path)), Storage()) as rows:
        count = sum(1 for _ in rows.raw())
        assert (count, rows.continued) == (3, 2)


@pytest.mark.parametrize(
    "lines",
    [
        ['a.jpg,"never closed', *["b.jpg,a cat"] * 200_000],
        ['a.jpg,"x'] * 200_000,
        ['x","y'] * 60_000,
        ['a.jpg,"" x', 'b.jpg,"x'] * 30_000,
    ],
    ids=["one", "each", "closed and opened", "doubled"],
)
def test_quotes_that_nothing_closes_take_linear_time(tmp_path: Path, lines: list[str]) -> None:
    path = written(tmp_path / "m.csv", "uri,caption\n" + "\n".join(lines))
    start = time.thread_time()
    with open_rows(str(path), Source(format="manifest", uri=str(path)), Storage()) as rows:
        count = sum(1 for _ in rows.raw())
    assert count == len(lines)
    assert time.thread_time() - start < 10, "about 1 s; minutes where it is quadratic"


def test_a_worker_finds_the_rows_that_the_survey_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_slices, "MIN_SAMPLES", 1)
    monkeypatch.setattr(survey_slices, "MODULUS", 1)
    (tmp_path / "a.jpg").write_bytes(b"A")
    text = ['a.jpg,"hello', "a.jpg,x", 'a.jpg,"two\nlines"', 'a.jpg,"', "a.jpg,5\r", 'a.jpg,"end']
    path = written(tmp_path / "m.csv", "uri,caption\n" + "\n".join(text))
    source = Source(format="manifest", uri=str(path), caption="caption", id="key")
    units = list(survey(source, Storage(), Limits()))
    assert len(units) == len(text)
    found = [item for unit in units for item in read_unit(unit, source, Storage(), Limits())]
    assert not [item for item in found if isinstance(item, Reject)]
    captions = [item.caption for item in found if not isinstance(item, Reject)]
    assert captions == ['"hello', "x", "two\nlines", '"', "5", '"end']


@pytest.mark.parametrize("slices", ["one", "many"])
def test_a_row_that_cannot_be_read_is_named_by_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slices: str
) -> None:
    if slices == "many":
        monkeypatch.setattr(survey_slices, "MIN_SAMPLES", 1)
        monkeypatch.setattr(survey_slices, "MODULUS", 1)
    (tmp_path / "a.jpg").write_bytes(b"A")
    text = ["uri,caption", 'a.jpg,"two', 'lines"', "", "a.jpg,x,too many", "a.jpg,y", ",no link", "a.jpg,z"]
    path = written(tmp_path / "m.csv", "\r\n".join(text))
    source = Source(format="manifest", uri=str(path), caption="caption")
    units = list(survey(source, Storage(), Limits()))
    assert (len(units) > 1) == (slices == "many")
    found = [item for unit in units for item in read_unit(unit, source, Storage(), Limits())]
    assert [item.uri for item in found if isinstance(item, Reject)] == [f"{path}#line=5", f"{path}#line=7"]
    written(path, "\n".join([text[0], "a.jpg,new", *text[1:]]))
    found = [
        item for unit in survey(source, Storage(), Limits()) for item in read_unit(unit, source, Storage(), Limits())
    ]
    assert [item.uri for item in found if isinstance(item, Reject)] == [f"{path}#line=6", f"{path}#line=8"]


def test_every_slice_counts_its_own_rows_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_slices, "MIN_SAMPLES", 5)
    monkeypatch.setattr(survey_slices, "MODULUS", 15)
    monkeypatch.setattr(survey_slices, "MAX_SAMPLES", 20)
    path = written(tmp_path / "m.txt", "".join(f"{number}.jpg\n" for number in range(400)))
    source = Source(format="manifest", uri=str(path))
    units = list(survey(source, Storage(), Limits()))
    data = path.read_bytes()
    lines = [data[int(unit.start) : int(unit.end)].count(b"\n") for unit in units]
    assert [unit.num_samples for unit in units] == lines
    assert sum(lines) == 400
    assert max(lines) == 20, "some slice is as long as it may be"


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("m.csv", "uri,caption\na.jpg,x\n".encode("utf-16"), "is UTF-16 text"),
        ("m.csv", "uri,caption\na.jpg,x\n".encode("utf-16-be"), "is UTF-16 text"),
        ("m.jsonl", '{"uri": "a.jpg"}\n'.encode("utf-16"), "is UTF-16 text"),
        ("m.csv", b"PAR1" + bytes(50), "holds zero bytes"),
        ("m.csv", b"uri,caption\ra.jpg,x\rb.jpg,y\r", "carriage return alone"),
        ("m.csv", b"uri,caption\ra.jpg,x\nb.jpg,y\n", "carriage return alone"),
        ("m.txt", b"a.jpg\rb.jpg\r", "carriage return alone"),
        ("m.json", b' [\n {"uri": "a.jpg"}]', "holds a JSON array"),
        ("m.jsonl", b'[{"uri": "a.jpg"}]', "holds a JSON array"),
        ("m.json", b'{\n  "uri": "a.jpg"\n}\n', "over several lines"),
        ("m.csv", b"uri,caption,uri\na.jpg,x,b.jpg\n", "2 columns called uri"),
        ("m.tsv", b"uri\tcaption\tcaption\na.jpg\tx\ty\n", "2 columns called caption"),
        ("m.csv", "uri,größe\n".encode("latin-1"), "no readable header line"),
    ],
)  # fmt: skip
def test_lists_in_other_forms_are_one_sentence(tmp_path: Path, name: str, data: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(data)
    caption = "caption" if b"caption" in data and sentence.startswith("2 col") else None
    with pytest.raises(UserError, match=sentence) as caught:
        list(survey(Source(format="manifest", uri=f"{tmp_path}/{name}", caption=caption), Storage(), Limits()))
    assert caught.value.hint
    assert f"{tmp_path}/{name}" in caught.value.message


def test_blank_lines_before_the_header_are_passed_over(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", "\ufeff\n\r\n  \nuri,caption\na.jpg,one\n\nb.jpg\nc.jpg,three\n")
    assert [r for r in records(path) if isinstance(r, dict)] == [
        {"uri": "a.jpg", "caption": "one"},
        {"uri": "c.jpg", "caption": "three"},
    ]
    source = Source(format="manifest", uri=str(path), caption="caption")
    found = [s for u in survey(source, Storage(), Limits()) for s in read_unit(u, source, Storage(), Limits())]
    assert [item.uri.rpartition("#")[2] for item in found if "values" in getattr(item, "detail", "")] == ["line=7"]
    with pytest.raises(UserError, match="no column"):
        list(survey(source.model_copy(update={"caption": "text"}), Storage(), Limits()))
