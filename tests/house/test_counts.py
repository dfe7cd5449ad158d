"""What a sentence counts goes by its number: `1 row`, never `1 rows`. `schemas.text.words` does it for all of them."""

import ast
import re
from collections.abc import Iterator

from tests.house.test_architecture import MODULES, tree

NOUNS = re.compile(
    r" (?:(?:old|new|more) )?(rows|units|samples|files|fragments|versions|tombstones|rejects|pictures|images|vectors|"
    r"labels|entries|commits|workers|nodes|clusters|tars|partitions|nights|queries)\b(?!/)"
)
# Numbers that are never one there, such as limits that were passed; or one is told another way beside them.
NEVER_ONE = {
    "jobs.demo.run": 3,  # a bucket of hundreds is drawn
    "jobs.publishing.sync": 1,
    "jobs.querying.request": 1,
    "jobs.running.summary": 1,
    "schemas.job.vocabulary": 1,
    "workers.stub": 1,
    "workers.unit": 1,
}


def plural_after_a_number(text: ast.JoinedStr) -> Iterator[str]:
    for value, rest in zip(text.values, text.values[1:], strict=False):
        if not isinstance(value, ast.FormattedValue) or not isinstance(rest, ast.Constant):
            continue
        spec = ast.unparse(value.format_spec) if value.format_spec else ""
        if ast.unparse(value.value).isupper() or re.search(r"[+>]", spec):  # a constant; a change, a column of numbers
            continue
        if follows := NOUNS.match(str(rest.value)):
            yield ast.unparse(value.value) + follows[0]


def test_no_sentence_says_one_rows() -> None:
    found: list[str] = []
    for name, path in MODULES.items():
        texts = [node for node in ast.walk(tree(name)) if isinstance(node, ast.JoinedStr)]
        said = [f"{path}:{node.lineno}: {one}" for node in texts for one in plural_after_a_number(node)]
        if len(said) != NEVER_ONE.get(name, 0):
            found += said
    assert not found, "f\"{counted(n, 'row')}\" of schemas.text.words says 1 row and 2 rows:\n" + "\n".join(found)
