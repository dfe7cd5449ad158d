"""The pictures of a COCO document, counted without reading it as JSON."""

import re
from typing import BinaryIO

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]"]', re.DOTALL)
_PIECE_BYTES = 1 << 20


def pictures_of(stream: BinaryIO) -> int:
    """How many objects the top-level array `images` holds: by strings and brackets alone, a piece of the document at a
    time. The reader (`workers.read.lists.coco`) parses values, so that what it drops is missing in its count only."""
    pictures = depth = 0
    key = array = b""
    rest = b""
    while piece := stream.read(_PIECE_BYTES):
        text, rest = rest + piece, b""
        for found in _TOKEN.finditer(text):
            token = found.group()
            if token == b'"':  # a string that goes on in the next piece
                rest = text[found.start() :]
                break
            if token in b"{[":
                pictures += depth == 2 and token == b"{" and array == b'"images"'
                depth += 1
                if depth == 2:
                    array = key if token == b"[" else b""
            elif token in b"}]":
                depth -= 1
            elif depth == 1:
                key = token  # or a value, which the next key replaces
    return pictures
