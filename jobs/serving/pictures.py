"""Pictures of rows: a small one for the grid, the original for a closer look. Only bytes that are a picture leave.

The originals come from the table's own source and nowhere else (`table.originals`), by one ranged GET where the byte
range is known.
"""

from dataclasses import dataclass

from clipmill.jobs.querying.open import Table
from clipmill.jobs.serving.settings import Settings
from clipmill.jobs.table.originals import Originals, place_columns, why
from clipmill.jobs.table.tables import Tables
from clipmill.schemas.errors import UserError
from clipmill.schemas.job.config import Limits
from clipmill.schemas.unit.samples import BadImage
from clipmill.workers.decode.sniff import sniff
from clipmill.workers.recent import Recent
from clipmill.workers.store.errors import StoreUnavailable

CACHE_BYTES = 64_000_000


class NoPicture(Exception):
    """There is no picture to show for this row; the text says why."""


@dataclass(frozen=True, slots=True)
class Encoded:
    data: bytes
    media_type: str


class Pictures:
    """Thread-safe."""

    def __init__(self, table: Table, settings: Settings) -> None:
        self._table, self._settings = table, settings
        self._limits = Limits(max_image_bytes=50_000_000, max_pixels=settings.max_pixels)
        self._cache: Recent[tuple[tuple[str, int, str], str], Encoded] = Recent(
            lambda _, picture: len(picture.data), max_bytes=CACHE_BYTES
        )
        self._originals = Originals(Tables.at(table.uri, table.storage), settings.allow_sources)

    def thumbnail(self, row_id: str) -> Encoded:
        """WebP, longest side 256 pixels: the stored one, or made from the original. Raises NoPicture."""
        key = (self._table.snapshot.identity, row_id)
        return self._cache.get_or_make(key, lambda: self._stored(row_id) or self._made(row_id))

    def original(self, row_id: str) -> Encoded:
        """The encoded bytes as they were embedded. Raises NoPicture."""
        data = self._fetched(row_id)
        if (media_type := sniff(data)) is None:
            raise NoPicture("the original is no picture that a browser shows")
        return Encoded(data, media_type)

    def _fetched(self, row_id: str) -> bytes:
        found = self._table.get([row_id], place_columns(self._table.schema)).to_pylist()
        if not found:
            raise NoPicture("there is no such row")
        try:
            return self._originals.read(found[0], max_bytes=self._limits.max_image_bytes)
        except UserError as error:
            # The message of a store may name endpoints and paths, which are not for whoever asks over HTTP.
            raise NoPicture(f"the original is not shown: {_why(error)}") from error

    def _stored(self, row_id: str) -> Encoded | None:
        if "thumbnail" not in self._table.schema.names:
            return None
        found = self._table.get([row_id], ("thumbnail",)).to_pylist()
        data = found[0]["thumbnail"] if found else None
        if data is None:
            return None
        media_type = sniff(data)
        return Encoded(data, media_type) if media_type else None

    def _made(self, row_id: str) -> Encoded:
        from clipmill.workers.decode.picture import decode, thumbnail

        data = self._fetched(row_id)
        try:
            return Encoded(thumbnail(decode(data, self._limits, target_px=256).pixels_HWC), "image/webp")
        except BadImage as bad:
            raise NoPicture(f"the original cannot be decoded ({bad.reason})") from bad


def _why(error: UserError) -> str:
    """In words that tell somebody at the page what became of the picture."""
    cause = error.__cause__
    if isinstance(cause, FileNotFoundError):
        return "the picture is gone"
    if isinstance(cause, PermissionError):
        return "no access to it"
    return "its store does not answer" if isinstance(cause, StoreUnavailable) else why(error)
