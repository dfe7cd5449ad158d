"""The card of a selection: what was selected from what, by which recipe, with the count after each step; for people as
markdown, for programs as JSON beside it. Nothing in it is of the moment, so the same selection has the same card."""

import json
import shlex

from clipmill.jobs.querying.lists import put
from clipmill.jobs.selecting.selection import Report, StepReport
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Storage
from clipmill.schemas.text.markdown import cell, fence, line
from clipmill.schemas.text.plain import plain
from clipmill.schemas.text.words import counted


def check_card(to: str) -> str:
    if not to.endswith(".md"):
        raise UserError(f"--card {to} is no .md file", "such as --card card.md; card.json is written beside it")
    return to


def write_card(report: Report, to: str, storage: Storage) -> None:
    """`to` and, with the ending .json, the same for programs beside it."""
    check_card(to)
    put(to.removesuffix(".md") + ".json", card_json(report).encode(), storage)
    put(to, card(report).encode(), storage)


def card_json(report: Report) -> str:
    return json.dumps(plain(report), ensure_ascii=False, indent=1) + "\n"


def card(report: Report) -> str:
    """In markdown."""
    share = report.selected / report.rows if report.rows else 0.0
    version = f"{report.version}, kept by the tag `{report.tag}`" if report.tag else f"{report.version}"
    fenced = fence(report.recipe_text)
    lines = [
        f"# {line(report.recipe)}",
        "",
        *([line(report.description), ""] if report.description else []),
        f"{report.selected:,} of {counted(report.rows, 'row')} ({share:.2%}).",
        "",
        "| | |",
        "|---|---|",
        f"| table | {cell(report.table)} |",
        f"| version | {version} |",
        f"| id of the table | {report.table_id or 'none'} |",
        f"| model | {cell(report.model) or 'unknown'} |",
        f"| its weights | sha256 {report.weights_sha256 or 'unknown'} |",
        f"| recipe | sha256 {report.recipe_hash} |",
        f"| made by | clipmill {report.clipmill} |",
        "",
        "| step | | before | left | after | of these without a value | lowest score kept | |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(step) for step in report.steps),
        "",
        "## The recipe",
        "",
        f"{fenced}yaml",
        report.recipe_text.rstrip("\n"),
        fenced,
        "",
        "The same again, byte for byte, with this recipe in a file, on the same kind of machine:",
        "",
        "```",
        f"clipmill select {shlex.quote(report.table)} recipe.yaml --version {report.tag or report.version} "
        "--out ids.parquet",
        "```",
        "",
    ]
    return "\n".join(lines)


def _row(step: StepReport) -> str:
    missing = "" if step.without_value is None else f"{step.without_value:,}"
    least = "" if step.least is None else f"{step.least:.6g}"
    note = "; ".join([*([f"seed {step.seed}"] if step.seed is not None else []), *([step.note] if step.note else [])])
    cells = (f"{step.before:,}", f"{step.left:,}", f"{step.after:,}", missing, least, cell(note))
    return f"| {step.step} | {cell(step.does)} | {' | '.join(cells)} |"
