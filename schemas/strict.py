"""What every section of the job file is made of."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Frozen values; a key that is not known is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
