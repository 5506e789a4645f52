"""The look of each state: colour and mark. Solid colours that carry white text (contrast at least 4.5) on any page."""

from __future__ import annotations

from kale_magic.render.view import DECLARED

COLOURS = {
    DECLARED: "#5b6472",
    "waiting": "#6b7280",
    "queued": "#0f766e",
    "held": "#92400e",
    "running": "#1d4ed8",
    "paused": "#7e22ce",
    "gated": "#be185d",
    "completed": "#15803d",
    "cached": "#4d7c0f",
    "failed": "#b91c1c",
    "cancelled": "#525252",
    "lost": "#c2410c",
}
_MARKS = {
    DECLARED: ("·", "."),
    "waiting": ("○", "."),
    "queued": ("◌", "q"),
    "held": ("◫", "h"),
    "running": ("●", ">"),
    "paused": ("‖", "="),
    "gated": ("◇", "?"),
    "completed": ("✓", "+"),
    "cached": ("≡", "+"),
    "failed": ("✗", "x"),
    "cancelled": ("⊘", "-"),
    "lost": ("!", "!"),
}
ORDER = (
    "failed",
    "lost",
    "running",
    "paused",
    "gated",
    "queued",
    "held",
    "waiting",
    "completed",
    "cached",
    "cancelled",
    DECLARED,
)


def colour(state: str) -> str:
    """Return the colour of a state; one of a later version looks as a waiting one does."""
    return COLOURS.get(state, COLOURS["waiting"])


def mark(state: str, *, is_ascii: bool = False) -> str:
    """Return the one-character mark of a state, for text."""
    return _MARKS.get(state, ("?", "?"))[is_ascii]


def rank(state: str) -> int:
    """Return where a state stands in a list for people: what needs them first."""
    return ORDER.index(state) if state in ORDER else len(ORDER)
