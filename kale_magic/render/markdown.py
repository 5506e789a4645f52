"""Markdown with LaTeX as HTML: escaped, self-contained, readable without a net.

Owns the choice of the parser (CommonMark with tables and ``$...$``) and of MathML for formulas, which browsers draw
themselves. Refuses raw HTML and links that run script: a description may come from another person's file.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from kale_magic.render.words import escape

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

_MATHML = frozenset({
    "math", "menclose", "merror", "mfenced", "mfrac", "mi", "mlabeledtr", "mmultiscripts", "mn", "mo", "mover", "mpadded", "mphantom",
    "mprescripts", "mroot", "mrow", "ms", "mspace", "msqrt", "mstyle", "msub", "msubsup", "msup", "mtable", "mtd", "mtext", "mtr",
    "munder", "munderover", "none",
})  # fmt: skip


def markdown_html(text: str) -> str:
    """Return Markdown as HTML; a formula that can't be read stays as it was written."""
    return str(_parser().render(text)) if text.strip() else ""


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image").use(dollarmath_plugin, renderer=_formula, double_inline=True)
    parser.validateLink = _is_harmless  # type: ignore[method-assign] # the library's own way to say so
    return parser


def _is_harmless(url: str) -> bool:
    return url.startswith(("https://", "http://", "mailto:", "#"))


def _formula(text: str, options: dict[str, Any]) -> str:
    from latex2mathml.converter import convert

    display = "block" if options.get("display_mode") else "inline"
    try:
        found = str(convert(text, display=display))
        is_fit = all(_is_mathml(element) for element in ET.fromstring(found).iter())  # noqa: S314 - made here, a moment ago
    except Exception:  # the library raises what it likes on what is no LaTeX
        is_fit = False
    return found if is_fit else f"<code>{escape(text)}</code>"


def _is_mathml(element: ET.Element) -> bool:
    r"""Whether an element can run nothing: the library hands text such as ``\\text{<script>}`` on as it is."""
    name = element.tag.rpartition("}")[2]
    return name in _MATHML and not any(key.startswith("on") or key.endswith(("href", "src")) for key in element.attrib)
