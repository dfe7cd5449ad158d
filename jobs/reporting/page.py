"""Figures to one HTML file that stands alone: no script, no other file, nothing asked of any server.

Captions, labels and names of files are strangers' text: everything is escaped, and the page's own policy forbids all
but its style and the pictures inside it.
"""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipmill.jobs.reporting import charts
from clipmill.schemas.errors import UserError
from clipmill.schemas.text.words import counted
from clipmill.workers.store.whole import written_whole

if TYPE_CHECKING:
    from jinja2 import Environment

LONGEST = 300  # characters of a caption, a detail, an address


def render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(charts=charts, **values)


def write_page(path: Path, html: str) -> None:
    """Written beside and put in place, so that a reader never sees half a page. Raises UserError."""
    try:
        with written_whole(path) as half:
            half.write_text(html, encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}", "choose another file") from None


@lru_cache(maxsize=1)
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(num=_num, share=_share, took=_took, money=_money, when=_when, short=_short, figure=_figure)
    made.filters.update(counted=counted, gate=_gate, drifted=lambda change: abs(change[2] - change[1]))
    return made


def _num(value: float) -> str:
    return f"{value:,.0f}"


def _share(value: float) -> str:
    """0.1234 -> 12.3 %"""
    return f"{100 * value:.1f} %"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _gate(value: float | None) -> str:
    """Gates turn on small differences of shares."""
    return "–" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.5g}"


def _took(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _money(dollars: float | None) -> str:
    return "–" if dollars is None else f"${dollars:,.2f}"


def _when(iso: str | None) -> str:
    """In UTC, as all times of the page."""
    return "–" if not iso else iso[:16].replace("T", " ")


def _short(text: str, most: int = LONGEST) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
