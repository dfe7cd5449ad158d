"""Vocabularies: the built-in ones, the two file forms, and every mistake in a file as one sentence with its place."""

import subprocess
import sys
from pathlib import Path

import pytest

from clipmill.jobs.demo import captions
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.vocabulary import MAX_LABELS, Label, Vocabulary, parse_vocabulary
from clipmill.workers.tag import load_vocabulary


def parse(text: str, form: str = "yaml") -> Vocabulary:
    return parse_vocabulary(text, name="mine", where="mine.yaml", form=form)


def test_coco_has_its_80_names():
    coco = load_vocabulary("coco")
    assert len(coco.labels) == 80
    assert [coco.labels[i].name for i in (0, 1, 79)] == ["person", "bicycle", "toothbrush"]
    assert coco.facets == (("", 0, 80),)
    assert "a photo of a bike." in coco.prompts(coco.labels[1])


def test_what_ships_with_the_package_is_found_from_any_folder(tmp_path: Path) -> None:
    """Under the one name that is imported: `schemas` and `workers` are names only beside a checkout."""
    program = (
        "from clipmill.jobs.demo import bucket, files; from clipmill.workers.tag import load_vocabulary\n"
        "load_vocabulary('coco'); files._table_digest(bucket.BucketSpec(number=100))"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)


def test_imagenet_comes_from_open_clip_with_plain_text_templates():
    pytest.importorskip("open_clip")
    imagenet = load_vocabulary("imagenet")
    assert len(imagenet.labels) == 998  # 1,000 classes, two pairs of which share a name
    assert len(imagenet.templates) == 80
    assert imagenet.prompts(imagenet.labels[0])[:2] == ["a bad photo of a tench.", "a photo of many tench."]


def test_scenes_are_what_the_demo_renders_and_the_model_was_trained_on():
    scenes = load_vocabulary("scenes")
    for facet, names in captions.LABELS.items():
        mine = [label for label in scenes.labels if label.facet == facet]
        assert tuple(label.name for label in mine) == names
        expected = [template.format(names[0]) for template in captions.TEMPLATES[facet]]
        assert scenes.prompts(mine[0]) == expected
    assert len(scenes.facets) == len(captions.LABELS)


def test_yaml_with_facets_synonyms_and_templates():
    words = parse(
        "name: clothes\n"
        "templates: ['a photo of {label} clothes', 'something {}']\n"
        "facets:\n"
        "  colour: [red, {name: blue, synonyms: [azure, navy]}]\n"
        "  kind:\n"
        "    templates: ['a {label}']\n"
        "    labels: [shoe, 'on', 7]\n"
    )
    assert words.name == "clothes"
    assert words.labels[1] == Label(name="blue", synonyms=("azure", "navy"), facet="colour")
    assert [label.name for label in words.labels[2:]] == ["shoe", "on", "7"]
    assert words.facets == (("colour", 0, 2), ("kind", 2, 5))
    assert words.prompts(words.labels[0]) == ["a photo of red clothes", "something red"]
    assert len(words.prompts(words.labels[1])) == 6
    assert words.prompts(words.labels[2]) == ["a shoe"]


def test_a_bare_list_and_a_file_of_its_own(tmp_path):
    file = tmp_path / "animals.yaml"
    file.write_text("- cat\n- dog\n")
    words = load_vocabulary(str(file))
    assert (words.name, [label.name for label in words.labels]) == ("animals", ["cat", "dog"])


def test_csv_keeps_facets_together(tmp_path):
    file = tmp_path / "words.csv"
    file.write_bytes(
        "\ufefflabel,synonyms,facet\nred,scarlet; crimson,colour\nshoe,,kind\nblue,,colour\nhat,,kind\n".encode()
    )
    words = load_vocabulary(str(file))
    assert [label.name for label in words.labels] == ["red", "blue", "shoe", "hat"]
    assert words.labels[0].synonyms == ("scarlet", "crimson")
    assert words.facets == (("colour", 0, 2), ("kind", 2, 4))


def test_the_hash_follows_the_content_and_not_the_name():
    base = parse("name: a\nlabels: [cat, dog]")
    assert base.hash == parse("name: b\nlabels: [cat, dog]").hash
    others = ["labels: [dog, cat]", "labels: [cat, {name: dog, synonyms: [hound]}]", "facets: {x: [cat, dog]}"]
    others.append("templates: ['{label}']\nlabels: [cat, dog]")
    hashes = {parse(text).hash for text in others} | {base.hash}
    assert len(hashes) == 5


def test_a_large_vocabulary_is_read():
    text = "labels:\n" + "".join(f"- label {i}\n" for i in range(20_000))
    assert len(parse(text).labels) == 20_000


BAD_YAML = {
    "labels: [cat, cat]": "the label 'cat' is given twice",
    "facets: {a: [cat], b: [cat]}": "in facets 'a' and 'b'",
    "labels: [cat]": "'cat' is the only label without a facet",
    "facets: {colour: [red, blue], solo: [zebra]}": "'zebra' is the only label in facet 'solo'",
    "labels: [cat, no]": "line 1: a bare false is not text",
    "labels:\n- cat\n- ": "line 3: nothing is not text",
    "labels:\n- cat\n- {synonyms: [x]}": "line 3: a label has no `name`",
    "labels:\n- cat\n- {name: x, synonims: [x]}": "line 3: 'synonims' is not a known key",
    "labels: []": "not a list of labels",
    "labels: cat": "not a list of labels",
    "facets: [cat]": "`facets` is not a mapping",
    "facets: {a: {label: [x]}}": "facet 'a': 'label' is not a known key",
    "lables: [cat]": "line 1: 'lables' is not a known key",
    "name: x": "needs either `labels` or `facets`",
    "labels: [a]\nfacets: {x: [b]}": "needs either `labels` or `facets`",
    "labels: [cat]\ntemplates: [a photo]": "template 'a photo' does not hold {label} once",
    "labels: [cat]\ntemplates: a {label}": "line 2: `templates` is not a list",
    "labels: [" + "x" * 201 + "]": "a label has 201 characters",
    "labels: [cat": "this is not YAML",
    "labels: &a [cat]\nname: *a": "anchors and aliases",
    "labels: [cat]\nlabels: [dog]": "line 2: 'labels' is given twice",
    "yes: [cat]": "'yes' is not a text key",
    "": "it holds no keys",
    "labels: [{name: cat, synonyms: cat}]": "synonyms of 'cat' are not a list",
    "[" * 100 + "]" * 100: "nested more than",
}


@pytest.mark.parametrize("text", BAD_YAML, ids=lambda text: text[:30].replace("\n", " "))
def test_bad_yaml_is_one_sentence_with_its_place(text):
    with pytest.raises(UserError) as caught:
        parse(text)
    assert BAD_YAML[text] in caught.value.message
    assert caught.value.message.startswith("mine.yaml")
    assert caught.value.hint


BAD_CSV = {
    "": "names no column `label`",
    "name\ncat\n": "names no column `label`",
    "label,synonym\ncat,\n": "first line: 'synonym' is not a known key",
    "label\ncat\ndog,x\n": "line 3: there are more values than columns",
    'label\ncat\n""\n': "line 3: a label has 0 characters",
    'label\n"cat\n': "this is not CSV",
    "label,facet\nred,colour\nshoe,kind\nblue,colour\n": "'shoe' is the only label in facet 'kind'",
    "label\ncat\ncat\n": "the label 'cat' is given twice",
}


@pytest.mark.parametrize("text", BAD_CSV, ids=lambda text: text[:30].replace("\n", " "))
def test_bad_csv_is_one_sentence_with_its_place(text):
    with pytest.raises(UserError) as caught:
        parse(text, form="csv")
    assert BAD_CSV[text] in caught.value.message


def test_too_many_labels_are_refused():
    with pytest.raises(UserError, match=r"has 100,001 labels"):
        parse("label\n" + "".join(f"{i}\n" for i in range(MAX_LABELS + 1)), form="csv")


def test_unknown_names_say_what_is_built_in(tmp_path):
    with pytest.raises(UserError) as caught:
        load_vocabulary("cocoo")
    assert "coco, imagenet, scenes" in caught.value.hint
    with pytest.raises(UserError, match="cannot be read: No such file"):
        load_vocabulary(str(tmp_path / "absent.yaml"))
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="byte 0 is not UTF-8"):
        load_vocabulary(str(binary))
