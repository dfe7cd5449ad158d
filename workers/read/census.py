"""What lies in a unit, counted from raw names and rows before anything is made of them.

A reader counts what it yields; here is counted what it was given, by other code, so that a sample which a reader
drops is missing in a sum: every picture ends as a sample or a reject, or is counted in `left_out`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from clipmill.schemas.unit.left_out import HIDDEN, LeftOut, count, ending_of
from clipmill.workers.read.fields import Wanted
from clipmill.workers.read.tars.tar import Member, plain_name

BEHIND_A_DOT = "*."  # of a key of `left_out`: "*.jpg" are pictures in whose name the key ends at an earlier dot


@dataclass(slots=True)
class Census:
    """Counts of one reading of a unit.

    `pictures`: members, keys or rows that can be a sample. `dotted`: those of them whose name has an earlier dot, so
    that they are pictures only where their key has no other (webdataset). `passed_over`: those of them that are not,
    which are in `left_out` too. `of_none`: rejects that are no picture's, as of a key that has texts alone; they must
    not stand in for one that is missing.
    """

    pictures: int = 0
    dotted: int = 0
    passed_over: int = 0
    of_none: int = 0
    left_out: LeftOut = field(default_factory=dict)

    def members(self, members: Iterable[Member], wanted: Wanted) -> Iterator[Member]:
        """The members of a tar, each counted by its name as it passes."""
        for member in members:
            self._count(member.name, wanted)
            yield member

    def _count(self, name: str, wanted: Wanted) -> None:
        named = split_name(name)
        if named is None:
            count(self.left_out, ending_of(name))
            return
        extension = named[1]
        if extension in wanted.image:
            self.pictures += 1
        elif is_dotted(extension, wanted):
            self.pictures += 1
            self.dotted += 1
        elif not wanted.is_text(extension):
            count(self.left_out, ending_of(name))

    def entries(self, entries: Iterable[tuple[str, int]], span: range, wanted: Wanted) -> None:
        """The members (name, where its header begins) of an archive with a directory that begin in `span`. A text is
        left to the reader, which knows whether a picture has it."""
        for name, at in entries:
            base = name.rpartition("/")[2]
            if at not in span or self.is_text(name, wanted):
                continue
            if ending_of(name) != HIDDEN and "." in base and base.rpartition(".")[2].lower() in wanted.image:
                self.pictures += 1
            else:
                count(self.left_out, ending_of(name))

    @staticmethod
    def is_text(name: str, wanted: Wanted) -> bool:
        """Whether a name is that of a text which the source asks for."""
        return wanted.is_text(ending_of(name))

    def leave_out(self, what: str) -> None:
        count(self.left_out, what)

    def pass_over(self, extension: str) -> None:
        """A dotted picture is none, because its key has a picture of its own."""
        self.passed_over += 1
        count(self.left_out, BEHIND_A_DOT + extension.rpartition(".")[2])

    def missing(self, seen: int) -> int:
        """Pictures that are neither among the `seen` samples and rejects nor left out by name; 0 where all are."""
        return max(0, self.pictures - self.passed_over - (seen - self.of_none))


def split_name(name: str) -> tuple[str, str] | None:
    """(key, lower-case extension) of a member, or None for what is no part of a sample: dot files, macOS `._` files
    and `__MACOSX` folders, webdataset's own `__name__` entries, names without an extension."""
    name = plain_name(name)
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    if not stem or not dot or not extension or (base.startswith("__") and base.endswith("__")):
        return None
    if "__MACOSX" in folder.split("/"):
        return None
    return folder + slash + stem, extension.lower()


def is_dotted(extension: str, wanted: Wanted) -> bool:
    """Whether a member's extension, which begins at the first dot of its name, ends like a picture's."""
    return "." in extension and extension.rpartition(".")[2] in wanted.image
