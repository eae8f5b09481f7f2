"""What every table of the schema is made from."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

__all__ = ["GIB", "KIB", "MIB", "Section"]

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30


class Section(BaseModel):
    """A table of the configuration file."""

    model_config = ConfigDict(extra="forbid", frozen=True)
