"""Small tables as text and HTML, for what is no picture of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kale_magic.render.words import columns, escape, pad

if TYPE_CHECKING:
    from collections.abc import Sequence

_STYLE = "text-align:left;padding:2px 14px 2px 0;border:0;background:none"


def table(heads: Sequence[str], rows: Sequence[Sequence[object]], *, text: str = "", title: str = "") -> dict[str, Any]:
    """Return a mime bundle of a table; a column in which every cell is empty is left out.

    Parameters
    ----------
    heads : sequence of str
        Names of the columns.
    rows : sequence of sequence
        Cells.
    text : str
        The plain form, where there is a better one than aligned columns.
    title : str
        A line above it.
    """
    used = [n for n in range(len(heads)) if any(str(row[n]) for row in rows)]
    heads = [heads[n] for n in used]
    cells = [[str(row[n]) for n in used] for row in rows]
    return {"text/plain": text or _plain(heads, cells, title), "text/html": _html(heads, cells, title)}


def _plain(heads: Sequence[str], cells: Sequence[Sequence[str]], title: str) -> str:
    lines = [list(heads), *cells]
    wide = [max(columns(line[n]) for line in lines) for n in range(len(heads))]
    text = ["  ".join(pad(cell, wide[n]) for n, cell in enumerate(line)).rstrip() for line in lines]
    return "\n".join([title, *text] if title else text)


def _html(heads: Sequence[str], cells: Sequence[Sequence[str]], title: str) -> str:
    head = "".join(f'<th style="{_STYLE}">{escape(cell)}</th>' for cell in heads)
    body = "".join(
        "<tr>" + "".join(f'<td style="{_STYLE}">{escape(cell)}</td>' for cell in row) + "</tr>" for row in cells
    )
    caption = f"<div>{escape(title)}</div>" if title else ""
    return f'{caption}<table class="kale-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
