"""What one check of ``doctor`` found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: ``ok``, ``warning`` or ``wrong``, in a sentence, and what to do about it."""

    part: str
    state: str
    found: str
    mend: str = ""
