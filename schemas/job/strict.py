"""What every section of the job file is made of."""

import typing
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Strict(BaseModel):
    """Frozen values; a key that is not known is an error, and so is yes or no for a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Pydantic takes true for 1, which turns a share such as `max_gone` off; as a text it is no number."""
        if isinstance(value, bool) and info.field_name is not None:
            kinds = set(_kinds(cls.model_fields[info.field_name].annotation))
            if kinds & {int, float} and bool not in kinds:
                return str(value).lower()
        return value


def _kinds(annotation: Any) -> typing.Iterator[Any]:
    """What an annotation is made of, a union's parts one by one."""
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal or not parts:
        yield annotation
        return
    for part in parts:
        yield from _kinds(part)
