"""Samples of a tar: members that share a key, in whatever order they lie.

A key is the path up to the first dot of the file name, as webdataset has it; what follows is the extension. So
`v1.0-img0.jpg` is no `jpg` of its key `v1`, and is rejected by name. The usual tar keeps the members of a key side by
side, and such a sample leaves as soon as the key changes. But a sample that lacks a caption may find it at the very
end, so an incomplete one has to wait. What waits is kept in memory up to a share of `limits.worker_memory`; beyond that
only its byte range is kept, and read again at the end by a ranged GET. Inside gzip there are no ranges: there the bytes
go to an unlinked temporary file, at most `limits.worker_memory` of them. So a tar of any size and any order passes with
bounded memory, and the outcome does not depend on the bound.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from clipmill.schemas.errors import WrongFormat
from clipmill.schemas.job.config import Limits, Source, Storage
from clipmill.schemas.unit.rejects import Reason, Reject
from clipmill.schemas.unit.samples import Sample
from clipmill.schemas.unit.units import WorkUnit
from clipmill.workers.read.census import Census, is_dotted, split_name
from clipmill.workers.read.fetch import memory_share, ordered_map
from clipmill.workers.read.fields import MAX_TEXT_BYTES, Parts, Wanted, assemble, reject_id
from clipmill.workers.read.tars.held import Held, Part
from clipmill.workers.read.tars.packed import unpack
from clipmill.workers.read.tars.tar import BadTar, Member, TarReader, plain_name
from clipmill.workers.store.storage import open_stream, quote

_MAX_NAMED = 8  # extensions that a reject's detail lists
_FETCH_THREADS = 8
_GROUP_BYTES = 500  # about what a key that waits takes, beside its names and bytes
_MIN_WAITING_BYTES = 64_000_000  # of such keys are always allowed
_MAX_DOTTED = 1000  # names of dotted pictures that a key remembers; the rest are rejected as they come


@dataclass(slots=True)
class Group:
    """The members of one key that were met so far."""

    key: str
    images: list[Part] = field(default_factory=list)
    caption: Part | None = None
    json: Part | None = None
    extensions: list[str] = field(default_factory=list)
    dotted: list[str] = field(default_factory=list)  # names of pictures with an earlier dot
    is_cut: bool = False  # the tar ended in its last image

    @property
    def weight(self) -> int:
        """About how many bytes it takes beside the members' own."""
        names = [self.key, *self.dotted, *(part.name for part in self.images)]
        return _GROUP_BYTES + sum(map(sys.getsizeof, names))

    def is_complete(self, wanted: Wanted) -> bool:
        """Whether no later member can add anything."""
        has_caption = wanted.caption is None or self.caption is not None
        return bool(self.images) and has_caption and (not wanted.json or self.json is not None)

    def parts(self, rank: dict[str, int]) -> list[Part]:
        """Those whose bytes the sample needs: its best image and its texts."""
        best = sorted(self.images, key=lambda part: rank[part.extension])[:1]
        return [*best, *(p for p in (self.caption, self.json) if p)]


def read(unit: WorkUnit, source: Source, storage: Storage, limits: Limits, census: Census) -> Iterator[Sample | Reject]:
    """Samples and rejects of a tar, or of its headers in [unit.start, unit.end).

    Every key with at least one file ends as one sample or one reject; every further image of a key is a reject, and so
    is each picture whose name has an earlier dot where its key has no image. A tar that is cut or corrupt keeps the
    samples before that point and adds one reject that names the byte; one without any byte is one reject. Raises
    SourceChanged; WrongFormat for what is no tar by its first bytes; UserError where members of a compressed tar lie
    too far apart.
    """
    if unit.size_bytes == 0:  # an upload that failed, as a rule
        yield Reject(id=unit.uri, uri=unit.uri, reason=Reason.EMPTY, detail="the tar has no bytes")
        return
    start = int(unit.start or 0)
    stop = int(unit.end) if unit.end else None
    with open_stream(unit.uri, storage, expected_etag=unit.etag, start=start, straight_on=True) as stream:
        plain, is_packed = unpack(stream, unit.uri, start=start)
        tar = TarReader(plain, position=start, stop=stop, seekable=not is_packed)
        with Held(unit, storage, limits, ranged=not is_packed, budget_bytes=memory_share(limits)) as held:
            yield from _Assembly(unit, source, limits, tar, held, census).run()


class _Assembly:
    """One pass over a tar."""

    def __init__(
        self, unit: WorkUnit, source: Source, limits: Limits, tar: TarReader, held: Held, census: Census
    ) -> None:
        self._unit, self._source, self._limits, self._tar, self._held = unit, source, limits, tar, held
        self._census = census
        self._wanted = Wanted.of(source)
        self._rank = {extension: i for i, extension in reversed(list(enumerate(self._wanted.image)))}
        self._current: Group | None = None
        self._waiting: dict[str, Group] = {}
        self._waiting_bytes = 0  # of names, and of what holds them; the members' own bytes are in `_held`
        self._done: set[int] = set()  # hashes of keys that left; 64 bits, salted by Python per process

    def run(self) -> Iterator[Sample | Reject]:
        cut: BadTar | None = None
        try:
            for member in self._census.members(self._tar, self._wanted):
                yield from self._take(member)
        except BadTar as error:
            cut = error
        last, self._current = self._current, None
        if cut is not None:
            # What came last may lack what lay behind the cut, so it is not trusted unless nothing can be missing.
            if last is not None and last.is_complete(self._wanted) and not last.is_cut:
                yield from self._emit(last)
                last = None
            yield from self._cut(cut, last)
        elif last is not None:
            yield from self._leave(last)
        yield from self._rest()

    def _take(self, member: Member) -> Iterator[Sample | Reject]:
        named = split_name(member.name)
        if named is None:
            return
        key, extension = named
        if self._current is not None and self._current.key != key:
            group, self._current = self._current, None
            yield from self._leave(group)
        if hash(key) in self._done:
            if extension in self._rank:
                yield self._duplicate(key, member.name, f"the image of {key!r} came earlier in the tar")
            elif is_dotted(extension, self._wanted):
                self._census.pass_over(extension)
            return
        if self._current is None:
            waited = self._waiting.pop(key, None)
            if waited is not None:
                self._waiting_bytes -= waited.weight
            self._current = waited or Group(key)
            for part in self._current.parts(self._rank):
                self._held.release(part)
        self._add(self._current, member, extension)
        if len(self._current.dotted) > _MAX_DOTTED:
            yield self._dotted(key, self._current.dotted.pop())

    def _add(self, group: Group, member: Member, extension: str) -> None:
        if extension not in group.extensions and len(group.extensions) < _MAX_NAMED:
            group.extensions.append(extension)
        if extension in self._rank:
            # One image leaves, so only the best one's bytes are held, however many the key has.
            best = min(group.images, key=lambda part: self._rank[part.extension], default=None)
            better = best is None or self._rank[extension] < self._rank[best.extension]
            if better and best is not None:
                best.data = None
            part = self._image_part(member, extension)
            group.images.append(part)  # which was met, even where the tar ends in its bytes
            if better and not part.problem:
                group.is_cut = True
                part.data = self._tar.read(member)
                group.is_cut = False
        elif extension == self._wanted.caption and group.caption is None:
            group.caption = self._text_part(member, extension)
        elif extension == "json" and self._wanted.json and group.json is None:
            group.json = self._text_part(member, extension)
        elif is_dotted(extension, self._wanted):
            group.dotted.append(member.name)

    def _image_part(self, member: Member, extension: str) -> Part:
        """Without its bytes."""
        part = Part(member.name, extension, member.offset, member.size)
        if member.link is not None:
            part.problem, part.detail = Reason.NO_IMAGE, f"a link to {member.link!r}, without bytes of its own"
        elif member.sparse:
            part.problem, part.detail = Reason.UNKNOWN_FORMAT, "stored as a sparse file"
        elif member.size == 0:
            part.problem = Reason.EMPTY
        elif member.size > self._limits.max_image_bytes:
            part.problem = Reason.TOO_MANY_BYTES
            part.detail = f"{member.size:,} bytes, the limit is {self._limits.max_image_bytes:,}"
        return part

    def _text_part(self, member: Member, extension: str) -> Part:
        part = Part(member.name, extension, member.offset, member.size)
        if member.link is not None or member.sparse:
            part.problem, part.detail = Reason.BAD_METADATA, f"{extension} is a link or a sparse file"
        elif member.size > MAX_TEXT_BYTES:
            part.problem, part.detail = Reason.BAD_METADATA, f"{extension} holds {member.size:,} bytes"
        else:
            part.data = self._tar.read(member)
        return part

    def _leave(self, group: Group) -> Iterator[Sample | Reject]:
        """The key changed: out with it, or to those that wait."""
        if group.is_complete(self._wanted):
            self._done.add(hash(group.key))
            yield from self._emit(group)
            return
        for part in group.parts(self._rank):
            self._held.keep(part)
        self._waiting[group.key] = group
        self._waiting_bytes += group.weight
        if self._waiting_bytes > max(self._limits.worker_memory // 2, _MIN_WAITING_BYTES):
            raise WrongFormat(
                f"{self._unit.uri} holds {len(self._waiting):,} keys that lack a member, more than memory allows",
                "are source.image and source.caption the tar's own endings? Else pack the members of a key side by "
                "side, or raise limits.worker_memory",
            )

    def _rest(self) -> Iterator[Sample | Reject]:
        """What waited, in the order met: nothing more can come."""

        def load(group: Group) -> Group:
            for part in group.parts(self._rank):
                self._held.load(part)
            return group

        def weigh(group: Group) -> int:
            return sum(part.size for part in group.parts(self._rank) if not part.problem)

        groups = (self._waiting.pop(key) for key in list(self._waiting))
        budget = memory_share(self._limits)
        for group in ordered_map(groups, load, weigh=weigh, max_bytes=budget, threads=_FETCH_THREADS):
            yield from self._emit(group)

    def _emit(self, group: Group) -> Iterator[Sample | Reject]:
        group.images.sort(key=lambda part: self._rank[part.extension])  # stable: then the order in the tar
        uri = self._uri(group.images[0].name if group.images else group.key)
        text_problem = next((p for p in (group.caption, group.json) if p is not None and p.problem), None)
        yield from self._dotted_of(group)
        if not group.images:
            if not group.dotted:
                self._census.of_none += 1
                detail = f"has {', '.join(group.extensions)}"
                yield self._reject(group.key, uri, Reason.NO_IMAGE, detail)
            return
        first, *others = group.images
        problem = first if first.problem else text_problem
        if problem is not None and problem.problem:
            yield self._reject(group.key, uri, problem.problem, problem.detail)
        else:
            for part in group.parts(self._rank):
                self._held.load(part)
            assert first.data is not None
            yield assemble(
                Parts(
                    uri=uri,
                    key=group.key,
                    image=first.data,
                    caption=group.caption.data if group.caption else None,
                    json=group.json.data if group.json else None,
                    offset=first.offset if self._held.ranged else None,
                ),
                self._source,
                self._wanted,
            )
        for other in others:
            yield self._duplicate(group.key, other.name, f"{first.name!r} is the image of this key")

    def _dotted_of(self, group: Group) -> Iterator[Reject]:
        """Pictures with an earlier dot in their names: of a key that has an image they are other fields."""
        for name in group.dotted:
            if group.images:
                self._census.pass_over(name.rpartition("/")[2].lower())
            else:
                yield self._dotted(group.key, name)

    def _dotted(self, key: str, name: str) -> Reject:
        extension = name.rpartition("/")[2].partition(".")[2]
        detail = (
            f"a key ends at the first dot of a name, so this is {extension!r} of the key {key!r}, and not an image; "
            "name it without an earlier dot, or name that extension in source.image"
        )
        return self._reject(key, self._uri(name), Reason.NO_IMAGE, detail)

    def _cut(self, cut: BadTar, group: Group | None) -> Iterator[Reject]:
        uri = self._uri(group.key) if group is not None else f"{self._unit.uri}#byte={cut.offset}"
        key = group.key if group is not None else uri
        if group is None or not group.images:
            self._census.of_none += 1
        yield self._reject(key, uri, cut.reason, cut.detail)
        if group is not None:
            for other in group.images[1:]:
                yield self._duplicate(key, other.name, f"beside {group.images[0].name!r}, of the key the tar is cut in")
            yield from self._dotted_of(group)

    def _duplicate(self, key: str, name: str, detail: str) -> Reject:
        return self._reject(key, self._uri(name), Reason.DUPLICATE_MEMBER, detail)

    def _reject(self, key: str, uri: str, reason: Reason, detail: str) -> Reject:
        return Reject(id=reject_id(self._source, uri, key), uri=uri, reason=reason, detail=detail)

    def _uri(self, member: str) -> str:
        return f"{self._unit.uri}#{quote(plain_name(member))}"
