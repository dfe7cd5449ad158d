"""docs/job-file.md: its example is a job that can be run, and its table names every key there is."""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from pydantic import BaseModel

from clipmill.schemas.job.config import JobFile
from clipmill.schemas.job.heads import HeadFile, same_model

PAGE = (Path(__file__).resolve().parents[2] / "docs/job-file.md").read_text()


def test_the_example_is_a_job_whose_heads_are_of_its_model() -> None:
    example = re.search(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S)
    assert example is not None
    job = JobFile.model_validate(yaml.safe_load(example[1]))
    assert job.heads
    for name, head in job.heads.items():
        assert same_model(head.trained_on or "", job.model.name, job.model.pretrained or ""), name


def keys(section: type[BaseModel], before: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation, f"{before}{name}.")
        else:
            yield before + (field.alias or name)


def test_the_table_names_every_key() -> None:
    listed = set(re.findall(r"^\| `([\w.]+)` \|", PAGE, re.M))
    there = {*keys(JobFile), *keys(HeadFile, "heads.NAME.")} - {"heads"} | {"heads.NAME"}
    assert listed == there
