"""Lets comments and blank lines stand above ``%%kale_...``, where IPython would no longer see the magic."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from kale_magic.magics.session import KaleMagics

_KALE_MAGIC = re.compile(r"\s*%%kale(_\w+)?(\s|$)")


def make_transformer(session: KaleMagics) -> Callable[[list[str]], list[str]]:
    """Return the transformer of one notebook, which also notes how many lines it dropped, for messages."""

    def drop_lines_above_kale_magic(lines: list[str]) -> list[str]:
        """Return ``lines`` from the ``%%kale...`` line on, if nothing but comments and blank lines stands above it.

        IPython calls it for each cell, as the first of its clean-up transformers.
        """
        session.lines_above = 0
        for number, line in enumerate(lines):
            if _KALE_MAGIC.match(line):
                session.lines_above = number
                left = lines[number:]
                return left if len(left) > 1 else [*left, "\n"]  # IPython refuses a cell without a body; a notebook step has none
            if line.strip() and not line.lstrip().startswith("#"):
                break
        return lines

    return drop_lines_above_kale_magic
