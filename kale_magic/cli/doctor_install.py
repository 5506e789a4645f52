"""``doctor --host H --install``: an environment with this Kale on a host that has nothing but Python."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from kale_magic import config
from kale_magic.cli.finding import Finding
from kale_magic.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


def python(host: str) -> Iterator[Finding]:
    """Say of a host without Kale whether one can be made of its Python."""
    from kale_magic.api import provision

    settings = replace(config.load(), host=host)
    try:
        there = provision.look(settings)
        provision.platform_of(settings, there)
    except UsageError as exc:
        yield Finding("python there", "wrong", exc.message, exc.hint)
    else:
        yield Finding("python there", "ok", f"{there.version}, {there.executable}: an environment can be made of it, by --install")


def install(host: str, packages: Sequence[str], note: Callable[[str], None]) -> Iterator[Finding]:
    """Make the environment, if it is not there."""
    from kale_magic.api import provision

    begun = time.monotonic()
    made = provision.make(replace(config.load(), host=host), packages, lambda text: note(f"kale: {text} ..."))
    if made.was_there:
        yield Finding("environment", "ok", f"is there already: {made.path}")
        return
    yield Finding("environment", "ok", f"made {made.path}: {made.count} packages, {made.sent_bytes / 1e6:.0f} MB sent, {time.monotonic() - begun:.0f} s")
    if made.others:
        yield Finding("environments", "warning", f"older ones of this version are beside it: {', '.join(made.others)}", "Remove them when nothing runs there any more.")
