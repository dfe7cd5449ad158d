"""The demo's page: one HTML file with the pictures inside, which asks nothing of any server."""

import base64
from collections.abc import Sequence
from pathlib import Path

from clipmill.jobs.demo.findings import Findings
from clipmill.workers.store.whole import written_whole

_TEMPLATE = "page.html.j2"


def render_page(findings: Findings, *, table: str, called: str, tries: Sequence[str]) -> str:
    """HTML; `tries`: command lines to try next. Captions and labels are strangers' text, so everything is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    return environment.get_template(_TEMPLATE).render(found=findings, table=table, called=called, tries=tries)


def write_page(findings: Findings, path: Path, *, table: str, called: str, tries: Sequence[str]) -> None:
    """Written beside and put in place, so that a reader never sees half a page."""
    html = render_page(findings, table=table, called=called, tries=tries)
    with written_whole(path) as half:
        half.write_text(html, encoding="utf-8")


def _data_uri(webp: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(webp).decode("ascii")
