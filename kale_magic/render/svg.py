"""A workflow or run as a static SVG picture: self-contained, no script, readable on light and dark pages.

Each colour is stated twice: as an attribute, for programs that know no CSS variables, and in a style that
follows JupyterLab's and VS Code's theme where the picture is part of their page, and
``prefers-color-scheme`` where it stands alone. Cards are opaque, so even a wrong guess stays readable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kale_magic.render.group import Cell, cells_of
from kale_magic.render.layout import Box, lay_out
from kale_magic.render.palette import ORDER, colour
from kale_magic.render.view import DECLARED, Graph, Node
from kale_magic.render.words import clip, columns, escape

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CARD_HEIGHT = 46.0
_NAME_COLUMN, _SMALL_COLUMN = 8.5, 6.2  # pixels of one character at 13 and 10.5 px, wide letters reckoned with
_LONGEST_NAME = 26
_MARGIN = 8.0
_STACK = 4.0  # how far each card of a stack stands out
_BLOCK_PAD = 8.0
_BLOCK_GAP = 8.0
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_STYLE = (
    "<style>"
    ".kale-dag{--kale-card:#fff;--kale-ink:#1f2328;--kale-soft:#57606a;--kale-line:#8c959f;--kale-rim:#b6bec8}"
    "@media(prefers-color-scheme:dark){.kale-dag{--kale-card:#1f242b;--kale-ink:#e6edf3;--kale-soft:#9da7b3;--kale-line:#7d8590;--kale-rim:#4a525c}}"
    ".kale-dag .kc{fill:var(--jp-layout-color1,var(--vscode-editor-background,var(--kale-card)));stroke:var(--jp-border-color1,var(--kale-rim))}"
    ".kale-dag .kn{fill:var(--jp-content-font-color1,var(--vscode-editor-foreground,var(--kale-ink)))}"
    ".kale-dag .ks{fill:var(--jp-content-font-color2,var(--vscode-descriptionForeground,var(--kale-soft)))}"
    ".kale-dag .ke{fill:none;stroke:var(--kale-line)}.kale-dag .ka{fill:var(--kale-line)}"
    ".kale-dag .kb{fill:none;stroke:var(--kale-line)}"
    ".kale-dag [role=button]:focus{outline:2px solid #1d4ed8;outline-offset:2px}"
    "</style>"
)


def dag_svg(
    nodes: Sequence[Node],
    edges: Iterable[tuple[str, str]],
    *,
    title: str = "",
    direction: Literal["LR", "TB"] = "LR",
    group_above: int = 200,
) -> str:
    """Return the picture of a DAG.

    Every step is a ``<g role="button" data-kale-step=NAME data-kale-state=STATE aria-label="NAME: STATE">``
    with its state as a colour and as a word; a sweep is a stack of cards with a tally such as ``2/3``.
    Many steps with the same parents and children stand in one frame as a grid; in a workflow of more
    than ``group_above`` steps such a frame, and a chain of steps, is one card with counts (its steps then
    have no group of their own).

    Parameters
    ----------
    nodes : sequence of Node
        In order of declaration.
    edges : iterable of (producer, consumer)
        Pairs of names.
    title : str
        What the picture is of, for a screen reader.
    direction : {"LR", "TB"}
        Whether it flows to the right or down.
    group_above : int
        Number of steps above which frames are drawn as one card.
    """
    cells, links = cells_of(nodes, edges, is_merging=len(nodes) > group_above)
    sizes = {cell.key: _cell_size(cell) for cell in cells}
    layout = lay_out([cell.key for cell in cells], links, sizes, direction=direction)
    width, height = layout.width + 2 * _MARGIN, layout.height + 2 * _MARGIN
    label = escape(f"workflow {title}".strip())
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="kale-dag" data-kale="dag" role="group" aria-label="{label}" '
            f'width="{width:.0f}" height="{height:.0f}" viewBox="{-_MARGIN:.0f} {-_MARGIN:.0f} {width:.0f} {height:.0f}" '
            f'font-family="{_FONT}">{_STYLE}'
        )
    ]
    is_down = direction == "TB"
    parts.append('<g class="ke" fill="none" stroke="#8c959f" stroke-width="1.4">')
    parts += [f'<path d="{curve(route, is_down=is_down)}"/>' for route in layout.routes.values()]
    parts.append('</g><g class="ka" fill="#8c959f">')
    parts += [f'<path d="{arrow(route, is_down=is_down)}"/>' for route in layout.routes.values()]
    parts.append("</g>")
    parts += [_cell(cell, layout.boxes[cell.key]) for cell in cells]
    parts.append("</svg>")
    return "".join(parts)


def graph_svg(graph: Graph, *, direction: Literal["LR", "TB"] = "LR") -> str:
    """Return :func:`dag_svg` of a graph read by :mod:`kale_magic.render.view`."""
    return dag_svg(graph.nodes, graph.edges, title=graph.title, direction=direction)


def _node_size(node: Node) -> tuple[float, float]:
    name = columns(clip(node.name, _LONGEST_NAME)) * _NAME_COLUMN
    below = _pill_width(node) + columns(_beside(node)) * _SMALL_COLUMN + (6 if _beside(node) else 0)
    depth = 2 * _STACK if node.is_sweep else 0.0
    return max(84.0, max(name, below) + 24) + depth, CARD_HEIGHT + depth


def _cell_size(cell: Cell) -> tuple[float, float]:
    if not cell.is_block:
        return _node_size(cell.nodes[0])
    sizes = [_node_size(node) for node in cell.nodes]
    rows = -(-len(sizes) // cell.columns)
    return (
        cell.columns * (max(width for width, _ in sizes) + _BLOCK_GAP) - _BLOCK_GAP + 2 * _BLOCK_PAD,
        rows * (max(height for _, height in sizes) + _BLOCK_GAP) - _BLOCK_GAP + 2 * _BLOCK_PAD,
    )


def _cell(cell: Cell, box: Box) -> str:
    if not cell.is_block:
        node = cell.nodes[0]
        return _card(node, box, f'data-kale-group="{cell.members}"' if cell.members > 1 else _button(node))
    sizes = [_node_size(node) for node in cell.nodes]
    wide, high = max(width for width, _ in sizes), max(height for _, height in sizes)
    parts = [
        (
            f'<rect class="kb" x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" rx="9" '
            'fill="none" stroke="#8c959f" stroke-dasharray="3 4"/>'
        )
    ]
    for number, node in enumerate(cell.nodes):
        row, column = divmod(number, cell.columns)
        x = box.x + _BLOCK_PAD + column * (wide + _BLOCK_GAP)
        y = box.y + _BLOCK_PAD + row * (high + _BLOCK_GAP)
        parts.append(_card(node, Box(x, y, wide, _node_size(node)[1]), _button(node)))
    return "".join(parts)


def _button(node: Node) -> str:
    name, state = escape(node.name), escape(node.state)
    return f'role="button" tabindex="0" data-kale-step="{name}" data-kale-state="{state}" aria-label="{name}: {state}"'


def _card(node: Node, box: Box, attributes: str) -> str:
    depth = 2 * _STACK if node.is_sweep else 0.0
    width, height = box.width - depth, box.height - depth
    x, y = box.x, box.y + depth  # the front card; the others look out above, to the right
    rim = colour(node.state)
    tip = (
        f"{node.name}: {node.state}"
        + (f" {node.tally}" if node.tally else "")
        + (f"\n{node.detail}" if node.detail else "")
    )
    behind = [
        f'<rect class="kc" x="{x + step * _STACK:.1f}" y="{y - step * _STACK:.1f}" width="{width:.1f}" height="{height:.1f}" '
        'rx="6" fill="#fff" stroke="#b6bec8"/>'
        for step in ((2, 1) if node.is_sweep else ())
    ]
    beside = _beside(node)
    pill = _pill_width(node)
    parts = [
        f"<g {attributes}><title>{escape(tip)}</title>",
        *behind,
        f'<rect class="kc" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="6" fill="#fff" stroke="#b6bec8"/>',
        f'<path d="M{x + 6:.1f} {y:.1f}h-1a5 5 0 0 0-5 5v{height - 10:.1f}a5 5 0 0 0 5 5h1z" fill="{rim}"/>',
        (
            f'<text class="kn" x="{x + 13:.1f}" y="{y + 18:.1f}" font-size="13" font-weight="600" fill="#1f2328">'
            f"{escape(clip(node.name, _LONGEST_NAME))}</text>"
        ),
    ]
    if pill:
        parts.append(
            f'<rect x="{x + 12:.1f}" y="{y + 25:.1f}" width="{pill:.1f}" height="15" rx="7.5" fill="{rim}"/>'
            f'<text x="{x + 12 + pill / 2:.1f}" y="{y + 36:.1f}" font-size="10.5" text-anchor="middle" fill="#fff">{escape(node.state)}</text>'
        )
    if beside:
        left = x + 12 + pill + (6 if pill else 1)
        parts.append(
            f'<text class="ks" x="{left:.1f}" y="{y + 36:.1f}" font-size="10.5" fill="#57606a">{escape(beside)}</text>'
        )
    parts += [_share(node, x + 8, y + height - 3.5, width - 12), "</g>"]
    return "".join(parts)


def _share(node: Node, x: float, y: float, width: float) -> str:
    """Return a thin bar that shows how many points are in which state."""
    if not node.counts or node.state == DECLARED:
        return ""
    parts, total = [], node.total
    for state in sorted(node.counts, key=lambda name: ORDER[::-1].index(name) if name in ORDER else -1):
        part = width * node.counts[state] / total
        parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{part:.1f}" height="2.5" fill="{colour(state)}"/>')
        x += part
    return "".join(parts)


def _pill_width(node: Node) -> float:
    return 0.0 if node.state == DECLARED else columns(node.state) * _SMALL_COLUMN + 10


def _beside(node: Node) -> str:
    """Return the small text beside the state."""
    if node.state == DECLARED and not node.tally and not node.note:
        return "python"
    return clip(", ".join(filter(None, [node.tally, node.note])), 24)


def curve(route: tuple[tuple[float, float], ...], *, is_down: bool) -> str:
    """Return the path of an edge, up to its arrow."""
    x, y = route[0]
    parts = [f"M{x:.1f} {y:.1f}"]
    points = [*route[1:-1], _before_arrow(route, is_down=is_down)]
    for nx, ny in points:
        if is_down:
            middle = (y + ny) / 2
            parts.append(f"C{x:.1f} {middle:.1f} {nx:.1f} {middle:.1f} {nx:.1f} {ny:.1f}")
        elif ny == y:
            parts.append(f"H{nx:.1f}")
        else:
            middle = (x + nx) / 2
            parts.append(f"C{middle:.1f} {y:.1f} {middle:.1f} {ny:.1f} {nx:.1f} {ny:.1f}")
        x, y = nx, ny
    return "".join(parts)


def _before_arrow(route: tuple[tuple[float, float], ...], *, is_down: bool) -> tuple[float, float]:
    (px, py), (x, y) = route[-2:]
    step = 6.0
    if is_down:
        return x, y - step if y >= py else y + step
    return (x - step if x >= px else x + step), y


def arrow(route: tuple[tuple[float, float], ...], *, is_down: bool) -> str:
    """Return the path of an edge's arrow."""
    x, y = route[-1]
    bx, by = _before_arrow(route, is_down=is_down)
    if is_down:
        return f"M{x:.1f} {y:.1f}L{x - 4:.1f} {by:.1f}H{x + 4:.1f}z"
    return f"M{x:.1f} {y:.1f}L{bx:.1f} {y - 4:.1f}V{y + 4:.1f}z"
