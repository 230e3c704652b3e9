"""The trainings that a generator's weights come from, before its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field


@dataclass(frozen=True)
class Ancestor:
    """A training whose weights another one started from."""

    run: str  # name of its folder
    class_name: str
    split_hash: str
    step: Annotated[int, Field(ge=0)]

    def describe(self) -> str:
        """Return the training in words."""
        return f"run `{self.run}` ({self.class_name}, step {self.step:,})"
