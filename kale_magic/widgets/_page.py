"""What is sent to the page with each widget: its script, the style, and the colours of the states.

Owns the joining of the shared script with a widget's own; refuses anything of 10 kB and more, since anywidget sends it
with every instance.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

from kale_magic.render.ansi import ANSI_STYLE
from kale_magic.render.palette import COLOURS

MOST_BYTES = 10_000
TABBED = ("step", "logs", "plots", "resources", "queue", "pools", "ssh")  # parts that a dashboard shows one at a time


@cache
def script(*names: str) -> str:
    """Return the shared script and those of ``names`` (files of ``static/``, without ``.js``) as one module."""
    folder = resources.files("kale_magic.widgets") / "static"
    text = "\n".join((folder / f"{name}.js").read_text(encoding="utf-8") for name in ("common", *names))
    return "\n".join(line.strip() for line in text.splitlines())


@cache
def style() -> str:
    """Return the style that all widgets share."""
    folder = resources.files("kale_magic.widgets") / "static"
    states = "".join(
        f".kale [data-kale-state={state}],.kale [data-s={state}]{{--s:{colour}}}" for state, colour in COLOURS.items()
    )
    shown = ",".join(f".kale-tabs:has([data-shown={part}])+.kale-parts>.kale-part-{part}" for part in TABBED)
    tabs = f".kale-parts>*{{display:none!important}}{shown}{{display:block!important}}"
    return ".kale{--s:#6b7280}" + (folder / "kale.css").read_text(encoding="utf-8") + states + tabs + ANSI_STYLE
