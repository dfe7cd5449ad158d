"""Why a search found nothing, in one sentence; and what one answer cannot hold. Asked only after an empty answer, so
it may count and look more than the search did."""

import difflib
import unicodedata
from dataclasses import replace

from clipmill.jobs.querying.request import Query
from clipmill.jobs.querying.snapshot import Snapshot
from clipmill.jobs.querying.table import Table
from clipmill.schemas.text.words import counted

_MOST_NAMED = 5


def why_nothing(table: Table, query: Query) -> str:
    """One sentence for a query that `table.run` answered with no row. Raises UserError as `run` does."""
    snapshot = table.snapshot
    if snapshot.num_rows == 0:
        return "the table has no rows"
    if said := _tags(snapshot, query):
        return said
    matching = table.count(query)
    if matching == 0:
        return _filters(table, query)
    if said := _score(table, query):
        return said
    if query.offset:
        rows = counted(matching, "row passes", "rows pass")
        return f"nothing that far down: {rows}, and {query.offset:,} were skipped"
    return "the rows that pass have no vector in this column, so they are not shown"


def caveat(table: Table, query: Query) -> str:
    """What one answer cannot hold: words that the model does not know, and what a hybrid search leaves out with this
    table's index. Empty where nothing is."""
    return "; ".join(said for said in (_unknown_words(table, query), _unspaced(table, query)) if said)


def _unknown_words(table: Table, query: Query) -> str:
    texts = (*query.positive.texts, *query.negative.texts)
    unknown = table.engine(query.column, "words").unknown_words(texts) if texts else []
    if not unknown:
        return ""
    words = ", ".join(f"'{word[:100]}'" for word in unknown[:_MOST_NAMED]) + (
        ", …" if len(unknown) > _MOST_NAMED else ""
    )
    return f"the model was never trained on {words}: it answers as if that were not there"


def _unspaced(table: Table, query: Query) -> str:
    if not query.hybrid or not any(_is_unspaced(text) for text in query.positive.texts):
        return ""
    if table.snapshot.full_text_tokenizer in ("", "icu"):
        return ""
    return (
        "words inside captions written without blanks (Chinese, Japanese, Thai) are not found by this table's index; "
        "run `clipmill index TABLE`, which builds one that finds them"
    )


def _is_unspaced(text: str) -> bool:
    names = (unicodedata.name(char, "") for char in text)
    return any(name.startswith(("CJK UNIFIED", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER")) for name in names)


def _tags(snapshot: Snapshot, query: Query) -> str:
    """About labels that no row has; of `any_tags` only where none of them is known."""
    if query.tags_column != "tags" or (not query.all_tags and not query.any_tags):
        return ""
    known = snapshot.labels
    if not known:
        return "this table has no tags; set `tags.vocabulary` in the job to have some"
    unknown = [label for label in query.all_tags if label not in known]
    if query.any_tags and not known.intersection(query.any_tags):
        unknown += query.any_tags
    if not unknown:
        return ""
    by_lower = {label.lower(): label for label in sorted(known)}
    close = difflib.get_close_matches(unknown[0].lower(), by_lower, n=1, cutoff=0.6)
    names = ", ".join(sorted(known)[:_MOST_NAMED]) + (", …" if len(known) > _MOST_NAMED else "")
    hint = f"did you mean '{by_lower[close[0]]}'?" if close else f"the table's tags are {names}"
    return f"no row has the tag '{unknown[0][:100]}'; {hint}"


def _filters(table: Table, query: Query) -> str:
    """Which filter alone lets nothing through, or that none does but all together."""
    only_where = Query(where=query.where)
    if query.where is not None and table.count(only_where) == 0:
        return "no row passes the SQL filter"
    parts = ["the SQL filter"] if query.where is not None else []
    parts += ["the tags"] if query.any_tags or query.all_tags or query.no_tags else []
    return f"no row passes {' and '.join(parts)} together"


def _score(table: Table, query: Query) -> str:
    if query.min_score is None or not len(query.positive):
        return ""
    found = table.run(replace(query, min_score=None, k=1, offset=0, columns=("id",)))
    best = found["score"][0].as_py() if len(found) else None
    if best is None or best >= query.min_score:
        return ""
    return f"the best score is {best:.2f}, and only hits of at least {query.min_score:g} were asked for"
