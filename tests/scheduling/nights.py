"""Nights to print, and characters that mean something in one of the languages."""

from typing import Any

from hypothesis import strategies as st

from clipmill.jobs.scheduling.night import Night
from clipmill.jobs.scheduling.when import Daily

PODS = ("cronjob", "argo", "raycronjob")
ALL = (*PODS, "crontab", "systemd", "airflow", "dagster")
AT_FOUR = Daily(hour=4, minute=0, timezone="Europe/Berlin")

# One line of what a path may hold; quotes, spaces and signs far more often than elsewhere.
NAMES = st.text(
    st.one_of(
        st.sampled_from(" '\"%$#&;|<>()[]{}*?!~`:,=@-\\éß日"),
        st.sampled_from("abyz09._"),
        st.characters(exclude_categories=["C", "Z"], exclude_characters="/"),
    ),
    min_size=1,
    max_size=24,
).filter(str.isprintable)


def night(kind: str, **more: Any) -> Night:
    values = {
        "job_file": "/srv/my jobs/it's 100% $HOME.yaml",
        "table": "s3://lake/db/images",
        "when": AT_FOUR,
        "address": None,
        "image": "registry.example/clipmill@sha256:" + "0" * 64,
        "folder": "/srv/my jobs",
        "program": ("/opt/clip mill/bin/clipmill",),
    }
    return Night(kind=kind, **{**values, **more})


def text(printed: dict[str, str]) -> str:
    (only,) = printed.values()
    return only
