"""Parts of a dashboard as HTML without script, for saved notebooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kale_magic.render.palette import colour
from kale_magic.render.words import escape

if TYPE_CHECKING:
    from collections.abc import Mapping

# The live output stands below; where it can't be drawn any more, its "model not found" would only be in the way.
_HIDE_NEXT = (
    ".jp-OutputArea-child:has([data-kale-static]) + .jp-OutputArea-child:not(:has(.kale)):has(.jupyter-widgets,.jp-RenderedText)"
    "{display:none}"
)


def stand_in(key: str, html: str) -> str:
    """Return the static twin of a widget: shown wherever the widget of this key is not."""
    return f'<div data-kale-static="{escape(key)}">{html}<style>{_HIDE_NEXT}</style></div>'


def panel_html(view: Mapping[str, Any]) -> str:
    """Return the panel of a step."""
    state = str(view.get("state") or "")
    pill = f'<span style="background:{colour(state)};color:#fff;border-radius:8px;padding:0 8px">{escape(state)}</span>'
    rows = [*view["facts"], *view["params"], *view["swept"]]
    parts = [
        f"<div><b>{escape(view['label'])}</b> {pill} {escape(view['reason'])}</div>",
        str(view["html"]),
        "<table>" + "".join(f"<tr><td>{escape(key)}</td><td>{escape(value)}</td></tr>" for key, value in rows) + "</table>",
        f"<pre>{view['traceback']}</pre>" if view["traceback"] else "",
        f"<pre>{escape(view['code'])}</pre>" if view["code"] else "",
    ]
    return "".join(parts)
