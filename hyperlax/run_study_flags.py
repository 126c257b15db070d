"""What `run-study` accepts, as typed: files, and what shall be otherwise than they say."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated

from tyro.conf import Positional, Suppress, arg

from hyperlax.flags import SearchFlags


@dataclass(frozen=True)
class RunStudyFlags(SearchFlags):
    """Run the studies that YAML files describe, one after another. A flag wins over a file; a default is for what no file says."""

    files: Annotated[
        tuple[str, ...],
        Positional,
        arg(metavar="FILE [FILE ...]", help="Studies as YAML.", help_behavior_hint="(required)"),
    ] = field(kw_only=True)
    resume_from: Suppress[str | None] = None
    retry_failed: Suppress[bool] = False

    @property
    def search(self) -> SearchFlags:
        """Of the command line, what is said of the studies."""
        return SearchFlags(**{f.name: getattr(self, f.name) for f in fields(SearchFlags)})
