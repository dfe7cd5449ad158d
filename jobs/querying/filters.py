"""From tags and SQL to one predicate for Lance; the SQL is checked before Lance sees it.

The check is a tokenizer with closed lists: columns of the table, operators, and functions that cannot allocate
without bound (DataFusion's `repeat` and `lpad` can take the process down with one short filter). It is no parser:
what passes it may still be wrong SQL, and then Lance's own error becomes the UserError.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from clipmill.schemas.errors import UserError

MAX_WHERE_CHARS = 1_000_000  # `id IN (...)` with thousands of ids is a fair question
MAX_WHERE_TERMS = 20_000
# Each is a level of recursion in the planner, and work for every row. The values of an IN list are neither.
MAX_OPERATIONS = 200
MAX_DEPTH = 20
MAX_PATTERNS = 16  # regular expressions cost a hundred times what other operations do

_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<string>'(?:[^']|'')*')
      | (?P<quoted>`[^`]+`)
      | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
      | (?P<word>[^\W\d]\w*)
      | (?P<operator><=|>=|<>|!=|==|\|\||[=<>+\-*/%(),\[\].])
      | (?P<bad>.)""",
    re.VERBOSE | re.DOTALL,
)
_CONTROL_WORDS = "and or not in is null like ilike between escape true false cast as case when then else end"
_TYPE_WORDS = "int integer bigint smallint float double real string varchar text boolean date timestamp interval"
_OPERATOR_WORDS = "and or not in is like ilike between case when escape cast"
OPERATORS = frozenset(_OPERATOR_WORDS.split())
_NO_OPERATION = frozenset("(),[]")
# Not regexp_match: Lance's filter makes a boolean of it, so `regexp_match(...) IS NOT NULL` is true of every row, while
# as a column it is a list (findings/lance-filters-make-booleans-of-matches.sh).
_PATTERN_FUNCTIONS = frozenset({"regexp_like"})
_LIST_FUNCTIONS = "array_has array_has_any array_has_all array_contains list_has list_contains array_length cardinality"
_TEXT_FUNCTIONS = (
    "cast lower upper trim length char_length character_length starts_with ends_with contains strpos substr substring "
    "left right regexp_like coalesce nullif"
)
_NUMBER_FUNCTIONS = "abs ceil floor round sqrt ln log10 exp power isnan greatest least"
_TIME_FUNCTIONS = "date_part date_trunc to_timestamp now"
KEYWORDS = frozenset(f"{_CONTROL_WORDS} {_TYPE_WORDS}".split())
FUNCTIONS = frozenset(
    f"make_array cast {_LIST_FUNCTIONS} {_TEXT_FUNCTIONS} {_NUMBER_FUNCTIONS} {_TIME_FUNCTIONS}".split()
)
_MISTAKES = (  # how Lance, DataFusion and Arrow name what is wrong with an expression
    "Invalid user input",
    "sql parser",
    "Schema error",
    "Cast error",
    "Divide by zero",
    "type_coercion",
    "Parser error",
    "Error during planning",
    "Execution error",
    "Compute error",
    "feature is not implemented",  # such as a cast of a list to a number
)
_NO_FILE = "does not appear to be a Lance file"  # of an index's: "Invalid user input", by Lance
_LANCE_NOISE = re.compile(r",?\s*(?:<[^>]*>\s*)?/\S+\.rs:\d+:\d+.*$", re.DOTALL)
# What follows Lance's copy of the predicate: our own part of it, then the reason in parentheses.
_AFTER_PREDICATE = re.compile(r"^[)\s]*(?:AND \(\w+ IS NOT NULL\))?[\s:]*\(?")
_LANCE_PREFIX = re.compile(
    r"^(?:LanceError\(\w+\)|Invalid user input|Schema error|Execution error|External error|Query Execution error|"
    r"Error applying filter expression to batch|Arrow error|Error during planning|sql parser error|Not supported|"
    r"This feature is not implemented):?\s*"
)


def quote(value: str) -> str:
    """A SQL string literal. NUL cannot be stored in a tag or an id, and confuses parsers: refused."""
    if "\x00" in value:
        raise UserError("a value of a filter holds a NUL character", "remove it")
    _check_unicode(value)
    return "'" + value.replace("'", "''") + "'"


def ids_predicate(ids: Sequence[str]) -> str:
    """Of no ids: what no row is."""
    return f"id IN ({', '.join(quote(i) for i in ids)})" if ids else "false"


def tags_predicates(
    any_of: Iterable[str],
    all_of: Iterable[str],
    none_of: Iterable[str],
    *,
    null_tags: bool = False,
    column: str = "tags",
) -> list[str]:
    """Predicates over `tags`, or the tags of another vocabulary, that the LABEL_LIST index answers.

    A row without tags (null) has none of any labels, so it passes `none_of`. IS NULL is not answered by the index (a
    scan of the column: 70 ms at a million rows beside 1 ms, docs/search-speed.md), so only said where `null_tags`.
    """
    found = []
    if labels := list(any_of):
        found.append(f"array_has_any({column}, {_array(labels)})")
    if labels := list(all_of):
        found.append(f"array_has_all({column}, {_array(labels)})")
    if labels := list(none_of):
        without = f"NOT array_has_any({column}, {_array(labels)})"
        found.append(f"({column} IS NULL OR {without})" if null_tags else without)
    return found


def _array(labels: Sequence[str]) -> str:
    return f"make_array({', '.join(quote(label) for label in labels)})"


def conjunction(predicates: Iterable[str | None]) -> str | None:
    kept = [f"({p})" for p in predicates if p]
    return " AND ".join(kept) or None


def check_where(where: str, columns: Sequence[str]) -> None:
    """Refuse what cannot be a predicate over `columns`. Raises UserError that names the word and the fix."""
    if len(where) > MAX_WHERE_CHARS:
        raise UserError(
            f"the filter has {len(where)} characters; at most {MAX_WHERE_CHARS} are read", "split the question"
        )
    _check_unicode(where)
    if not where.strip():
        raise UserError("the filter is empty", "leave it out, or write a predicate such as width > 512")
    known = frozenset(columns)
    tokens = _tokens(where)
    _check_bounds(tokens)
    for n, (kind, text) in enumerate(tokens):
        is_call = n + 1 < len(tokens) and tokens[n + 1][1] == "("
        if kind == "word" and text.lower() not in KEYWORDS:
            _check_word(text, is_call=is_call, known=known)
        elif kind == "quoted" and text[1:-1] not in known:
            _check_word(text[1:-1], is_call=False, known=known)
        if text.lower() in ("true", "false") and n and tokens[n - 1][1].lower() == "is":
            # NOT (b IS TRUE) is of the rows without a value too; an index leaves those out, as after NOT (b = true)
            # (findings/lance-an-index-forgets-nulls-under-not-is-true.sh).
            raise UserError(
                f"the filter says IS {text.upper()}, which indices and scans answer in two ways",
                f"write = {text.lower()}; IS NOT {text.upper()} is also of rows without a value",
            )
        if is_call and text.lower() in _PATTERN_FUNCTIONS:
            _check_pattern(text, tokens[n + 2 :])


def _check_bounds(tokens: Sequence[tuple[str, str]]) -> None:
    """Refuse what is nested or long enough to exhaust the planner's stack, or an evening of the processor."""
    depth = deepest = operations = patterns = 0
    for n, (kind, text) in enumerate(tokens):
        word = text.lower() if kind == "word" else ""
        is_call = bool(word) and word not in KEYWORDS and n + 1 < len(tokens) and tokens[n + 1][1] == "("
        operations += is_call or word in OPERATORS or (kind == "operator" and text not in _NO_OPERATION)
        patterns += is_call and word in _PATTERN_FUNCTIONS
        if kind == "operator" or word in ("case", "end"):
            depth += {"(": 1, "[": 1, "case": 1, ")": -1, "]": -1, "end": -1}.get(word or text, 0)
        deepest = max(deepest, depth)
        if depth < 0:
            break
    for found, most, what in (
        (deepest, MAX_DEPTH, "levels of parentheses"),
        (operations, MAX_OPERATIONS, "operators and function calls"),
        (patterns, MAX_PATTERNS, "regular expressions"),
    ):
        if found > most:
            raise UserError(
                f"the filter has {found} {what}; at most {most} are taken",
                "write it shorter; IN (...) takes many values of one column",
            )
    if depth != 0:
        raise UserError("the filter's parentheses do not balance", "close what is open")


def _check_pattern(function: str, arguments: Sequence[tuple[str, str]]) -> None:
    """A pattern that is made anew for every row is compiled for every row, each in megabytes of memory."""
    depth = 0
    for n, (_, text) in enumerate(arguments):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(text, 0)
        if depth < 0:
            return  # the planner says that an argument is missing
        if text == "," and depth == 0:
            literal = arguments[n + 1 : n + 3]
            if len(literal) < 2 or literal[0][0] != "string" or literal[1][1] not in (",", ")"):
                raise UserError(
                    f"the pattern of {function} is not a plain string", f"write it out: {function}(caption, '^a .*')"
                )
            return


def _check_unicode(text: str) -> None:
    """Lone surrogates cannot be handed to Lance, which takes UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError("a filter holds a lone surrogate, which is no Unicode text", "remove it") from None


def _tokens(where: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for match in _TOKEN.finditer(where):
        kind, text = str(match.lastgroup), match.group()
        if kind == "space":
            continue
        if kind == "bad" or (text in ("-", "/") and where[match.end() : match.end() + 1] in ("-", "*")):
            raise UserError(
                f"the filter has {text!r} at character {match.start() + 1}, which has no place in a predicate",
                "write a predicate such as width > 512 AND license = 'cc0'; strings take single quotes",
            )
        found.append((kind, text))
        if len(found) > MAX_WHERE_TERMS:
            raise UserError(
                f"the filter has more than {MAX_WHERE_TERMS} terms", "use IN (...) for many values of one column"
            )
    return found


def _check_word(word: str, *, is_call: bool, known: frozenset[str]) -> None:
    if is_call:
        if word.lower() in FUNCTIONS:
            return
        raise UserError(f"the filter calls {word}, which is not offered", _nearest(word, FUNCTIONS))
    if word not in known:
        nearest = _nearest(word, known)
        hint = f"{nearest}{'' if nearest.endswith('?') else ';'} a text takes single quotes: '{word}'"
        raise UserError(f"the filter names {word}, which is no column of the table", hint)


def _nearest(word: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"there is: {', '.join(names)}"


@contextmanager
def filter_errors(where: str | None) -> Iterator[None]:
    """Turn Lance's refusal of a user's filter into a UserError; anything else passes through.

    Lance raises ValueError for what it cannot plan and OSError or RuntimeError for what fails while it runs
    (a cast, a division by zero); the latter two also mean a store out of reach, so they are told apart by text.
    """
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:
        text = str(error)
        if where is None or _NO_FILE in text or not any(mistake in text for mistake in _MISTAKES):
            raise
        hint = "filters are SQL: width > 512"
        if "List(" in text:
            hint = "a list holds several values: write array_has_any(tags, ['shoe']), or --tag shoe"
        raise UserError(f"the filter cannot be used: {_short(text, where)}", hint) from None


def _short(text: str, where: str) -> str:
    """Lance's reason in one line, without its source position and its copy of the predicate."""
    line = " ".join(_LANCE_NOISE.sub("", text).split())
    before, copied, after = line.rpartition(" ".join(where.split()))
    if copied:
        line = _AFTER_PREDICATE.sub("", after).removesuffix(")") or before
    while (stripped := _LANCE_PREFIX.sub("", line)) != line:
        line = stripped
    return (line[:237] + "...") if len(line) > 240 else line.rstrip(".")
