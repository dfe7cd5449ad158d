"""Strangers' text in the markdown of cards: on one line, in a cell, between fences."""


def line(text: str) -> str:
    return " ".join(text.split())


def cell(text: str) -> str:
    """Of a table: one line, and no bar that would begin another cell."""
    return line(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def fence(text: str) -> str:
    """Longer than any that the text holds."""
    longest = run = 0
    for char in text:
        run = run + 1 if char == "`" else 0
        longest = max(longest, run)
    return "`" * max(3, longest + 1)
