"""What the road with torch and the one without must do alike: name the weights, take words apart, bound texts.

Imports no torch.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

Tokenizer = TypeVar("Tokenizer")

# No token of open_clip's own vocabulary has more than 24 characters, and what no token of the context is left for is
# not read. Its tokenizer would join the letters of a word in a time that grows with their square: 28 s for 30,000.
_CHARS_PER_TOKEN = 32
_CHARS_BEFORE_CLEANING = 16  # for each that is left: `&amp;quot;` is one
# It remembers every word it ever met.
_MAX_REMEMBERED_WORDS = 200_000
_WORD = re.compile(r"[^\W\d_]+|\d+")


def hash_of(tensors: Iterable[tuple[str, Sequence[int], Any]]) -> str:
    """sha256 over name, shape and bytes (fp32, as a buffer) of every tensor, which come in the order of names."""
    digest = hashlib.sha256()
    for name, shape, data in tensors:
        digest.update(f"{name}{tuple(shape)}".encode())
        digest.update(data)
    return digest.hexdigest()


def words_of(texts: Iterable[str]) -> list[str]:
    """Each once, lower case, in their order."""
    return list(dict.fromkeys(word for text in texts for word in _WORD.findall(text.lower())))


def bounded(tokenizer: Tokenizer) -> Tokenizer:
    """The same, which looks at no more of a text than the context has room for. Nothing is changed of one that does not
    clean its texts as open_clip's do."""
    owner: Any = tokenizer
    clean: Callable[[str], str] | None = getattr(owner, "clean_fn", None)
    if clean is not None and owner.context_length:
        most = _CHARS_PER_TOKEN * owner.context_length
        owner.clean_fn = lambda text: clean(text.lstrip()[: _CHARS_BEFORE_CLEANING * most])[:most]
    return tokenizer


def forget_words(tokenizer: Any) -> None:
    """To be called now and then: empties the tokenizer's memory once it is large."""
    words = getattr(tokenizer, "cache", None)
    if isinstance(words, dict) and len(words) > _MAX_REMEMBERED_WORDS:
        # A new dictionary: another thread may be looking into the old one. The special tokens must stay.
        tokenizer.cache = {word: token for word, token in list(words.items()) if word.startswith("<")}
