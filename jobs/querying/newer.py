"""Columns that the newest version has and the one that is read has not: readers of a published table do not see what
was added since, and whoever names such a column is told so."""

import re
from dataclasses import dataclass

from clipmill.schemas.errors import UserError


@dataclass(frozen=True, slots=True)
class Newer:
    """The newest version as it was when the table was opened. `columns`: those of it that the version read lacks."""

    version: int = 0
    columns: frozenset[str] = frozenset()

    def unknown(self, message: str, hint: str) -> UserError:
        """For a name in `message` that is no column; `hint` where the newest version has none of that name either."""
        if self.columns.intersection(re.findall(r"\w+", message)):
            hint = (
                f"the newest version has it, readers see an older one: `clipmill publish TABLE` shows it to them, and "
                f"--version {self.version} reads it"
            )
        return UserError(message, hint)


NONE_NEWER = Newer()
