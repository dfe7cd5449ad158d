"""Reading a job file: what a good one becomes, and what is kept out of it. Bad ones: test_bad_jobs.py."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from clipmill.jobs.planning.jobfile import load_job, redacted
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import JobFile
from tests.examples import examples

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "deploy" / "jobs").glob("*.yaml"))
MINIMAL = "table: s3://lake/db/images\nsource: {format: webdataset, uri: 's3://lake/raw/*.tar'}\n"


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "job.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_load(example):
    assert load_job(example).table


def test_there_are_examples_for_local_cluster_and_nightly_use():
    assert len(EXAMPLES) >= 3


def test_the_job_file_of_the_documentation_loads(tmp_path):
    """docs/job-file.md shows every section that a command reads; what it shows must be accepted."""
    page = (ROOT / "docs" / "job-file.md").read_text()
    text = page.split("```yaml\n")[1].split("```")[0]
    job = load_job(write(tmp_path, text))
    assert set(yaml.safe_load(text)) == set(JobFile.model_fields)
    assert job.limits.max_image_bytes == 50_000_000


def test_every_key_is_documented():
    page = (ROOT / "docs" / "job-file.md").read_text()
    for section, field in JobFile.model_fields.items():
        keys = getattr(field.annotation, "model_fields", {})
        for key in keys:
            assert f"`{section}.{key}`" in page, f"docs/job-file.md does not explain {section}.{key}"


def test_a_minimal_job_has_every_default(tmp_path):
    job = load_job(write(tmp_path, MINIMAL))
    assert job.source.uri == ("s3://lake/raw/*.tar",)
    assert (job.tags.vocabulary, job.commit.every_rows, job.thumbnails) == (None, 50_000, False)


def test_overrides_replace_and_add(tmp_path):
    job = load_job(write(tmp_path, MINIMAL), overrides={"tags.vocabulary": "coco", "source.format": "files"})
    assert (job.tags.vocabulary, job.source.format) == ("coco", "files")
    with pytest.raises(UserError, match=r"'workers.num' must be"):
        load_job(write(tmp_path, MINIMAL), overrides={"workers.num": "many"})


def test_local_paths_become_absolute_and_everything_else_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.yaml").write_text("[cat, dog]")
    (tmp_path / "coco").write_text("a file with the name of a built-in vocabulary")
    text = (
        "table: out/db/images\nsource: {format: files, uri: [pictures/, s3://b/x/, /abs/*.jpg]}\n"
        "tags: {vocabulary: words.yaml}\nmodel: {name: ViT-B-32, pretrained: laion2b_s34b_b79k}\n"
        "nightly: {golden: golden.parquet}\n"
    )
    job = load_job(write(tmp_path, text))
    assert job.table == f"{tmp_path}/out/db/images"
    assert job.source.uri == (f"{tmp_path}/pictures/", "s3://b/x/", "/abs/*.jpg")
    assert job.tags.vocabulary == f"{tmp_path}/words.yaml"
    assert job.nightly.golden == f"{tmp_path}/golden.parquet"
    of_list = load_job(write(tmp_path, text.replace("format: files,", "format: manifest, images: pictures/,")))
    assert of_list.source.images == f"{tmp_path}/pictures/"
    write(tmp_path, text)
    assert (job.model.name, job.model.pretrained) == ("ViT-B-32", "laion2b_s34b_b79k")
    assert load_job(tmp_path / "job.yaml", overrides={"tags.vocabulary": "coco"}).tags.vocabulary == "coco"


def test_a_kept_column_may_be_called_token(tmp_path):
    text = MINIMAL.replace("raw/*.tar'}", "raw/*.tar', keep: {token: string, secret: {type: string, from: token}}}")
    assert set(load_job(write(tmp_path, text)).source.keep) == {"token", "secret"}


def test_an_azure_container_is_no_password(tmp_path):
    text = MINIMAL.replace("s3://lake/raw/*.tar", "abfs://raw@account.dfs.core.windows.net/x/*.tar")
    assert "raw@account" in load_job(write(tmp_path, text)).source.uri[0]


SECRET = "wJalrXUtnFEMI-K7MDENG"
LEAKS = {
    "key": f"storage: {{aws_secret_access_key: {SECRET}}}",
    "top": f"password: {SECRET}",
    "session": f"storage: {{session_token: {SECRET}}}",
    "endpoint": f"storage: {{endpoint_url: 'http://user:{SECRET}@localhost:9000'}}",
    "golden": f"nightly: {{golden: 's3://AKIAIOSFODNN7EXAMPLE:{SECRET}@lake/golden.parquet'}}",
    "signed": f"nightly: {{golden: 'https://x.example/g?X-Amz-Signature={SECRET}'}}",
    "sas": f"nightly: {{golden: 'https://x.example/g?sv=1&sig={SECRET}'}}",
    "wrong type": f"workers: {{num: many}}\nstorage: {{secret_key: {SECRET}}}",
}


@pytest.mark.parametrize("text", LEAKS.values(), ids=LEAKS.keys())
def test_credentials_are_refused_and_never_repeated(tmp_path, text):
    with pytest.raises(UserError) as caught:
        load_job(write(tmp_path, MINIMAL + text))
    assert "credential" in caught.value.message or "password" in caught.value.message
    assert "standard AWS chain" in caught.value.hint
    assert SECRET not in caught.value.message + caught.value.hint


def test_redacted_masks_what_did_not_come_through_load_job(tmp_path):
    job = load_job(write(tmp_path, MINIMAL))
    assert redacted(job)["source"]["uri"] == ["s3://lake/raw/*.tar"]
    source = job.source.model_copy(
        update={
            "uri": (
                f"https://u:{SECRET}@h/x",
                f"https://h/x?X-Amz-Signature={SECRET}&y=1",
                "s3://AKIAIOSFODNN7EXAMPLE/x",
            )
        }
    )
    text = json.dumps(redacted(job.model_copy(update={"source": source})))
    assert SECRET not in text
    assert "AKIAIOSFODNN7EXAMPLE" not in text
    assert "https://***@h/x" in text
    assert "&y=1" in text


def test_reading_a_job_file_loads_nothing_heavy(tmp_path):
    heavy = {"torch", "ray", "lance", "lancedb", "pandas", "s3fs", "open_clip"}
    code = "import sys; from clipmill.jobs.planning.jobfile import load_job; load_job(sys.argv[1]); print(*sys.modules)"
    command = [sys.executable, "-c", code, str(write(tmp_path, MINIMAL))]
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert not heavy & set(out.stdout.split())


_KEYS = st.sampled_from(["table", "source", "tags", "uri", "format", "workers", "num", "secret", "x", "keep", "id"])
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["files", "auto"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)


@examples(150)
@given(data=_VALUES)
def test_any_yaml_is_a_job_or_a_user_error(tmp_path_factory, data):
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(yaml.safe_dump(data, allow_unicode=True))
    # Anything but a UserError ends the test.
    with contextlib.suppress(UserError):
        load_job(file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gone: drop", "'nightly.gone' must be"),
        ("max_gone: 10", "'nightly.max_gone' must be"),
        ("max_gone: true", "'nightly.max_gone' must be a number"),  # which would let everything go
        ("min_misses: yes", "'nightly.min_misses' must be a whole number"),
        ("watch: {shoes: {k: 3}}", "takes exactly one of text, image and like, not none"),
        ("watch: {shoes: {text: a, like: b}}", "not text and like"),
        ("watch: {shoes: {txt: a}}", "txt"),
        ("webhook: hooks.example/secret", "'nightly.webhook' must be an address"),
        ("max_gon: 0.5", "max_gon"),
    ],
)
def test_mistakes_in_the_nightly_section_are_told(tmp_path, text, said):
    with pytest.raises(UserError) as caught:
        load_job(write(tmp_path, MINIMAL + f"nightly: {{{text}}}\n"))
    assert said in caught.value.message
    assert "secret" not in str(caught.value)


def test_a_model_folder_is_named_by_its_whole_path(tmp_path, monkeypatch):
    """Actors, and the nights that keep a set of it up, run in another folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "clipmill-tiny").mkdir()
    names = {"mine": "/mine", "./mine": "/mine", "local-dir:mine": "/mine", "local-dir:./mine": "/mine"}
    for name, end in names.items():
        prefix = "local-dir:" if name.startswith("local-dir:") else ""
        assert (
            load_job(write(tmp_path, MINIMAL + f"model: {{name: '{name}'}}\n")).model.name == f"{prefix}{tmp_path}{end}"
        )
    for name in ("clipmill-tiny", "ViT-B-32", "hf-hub:mine", "local-dir:elsewhere"):
        assert load_job(write(tmp_path, MINIMAL + f"model: {{name: '{name}'}}\n")).model.name == name


def test_a_watched_picture_is_made_absolute_and_words_alone_are_a_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    watch = "watch: {shoe: {image: shoe.jpg}, hats: a red hat}"
    found = load_job(write(tmp_path, MINIMAL + f"nightly: {{{watch}}}\n")).nightly.watch
    assert found["shoe"].image == f"{tmp_path}/shoe.jpg"
    assert found["hats"].text == "a red hat"
