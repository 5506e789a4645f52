"""A laid-out DAG as the page gets it, and what changed in it since.

Owns sizes and places (by :mod:`kale_magic.render.layout`), which steps stand together, and the rows that say
each card's state. Refuses to know pixels on the screen: pan and zoom are the page's. Called by the ``Dag`` widget.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from kale_magic.render.group import Cell, cells_of, merged
from kale_magic.render.layout import Box, lay_out
from kale_magic.render.palette import rank
from kale_magic.render.svg import arrow, curve
from kale_magic.render.view import DECLARED, Graph, Node
from kale_magic.render.words import clip, columns

if TYPE_CHECKING:
    from collections.abc import Iterable

Direction = Literal["LR", "TB"]
Row = list[Any]  # state, words beside it, sentence, shares

GROUP_ABOVE = 200
_CARD, _STACK, _PAD, _GAP = 46.0, 8.0, 8.0, 8.0
_NAME_COLUMN, _SMALL_COLUMN = 8.5, 6.2
_PILL = 84.0  # what the state's word takes, whichever it is, so that a change moves nothing
_LONGEST = 26


class Scene:
    """One picture of a graph: where each card is, and what it says now.

    Parameters
    ----------
    graph : Graph
        Steps and edges.
    direction : {"LR", "TB"}
        To the right, or down.
    group_above : int
        Number of steps above which fans and chains of them are one card with counts.
    """

    def __init__(self, graph: Graph, direction: Direction = "LR", group_above: int = GROUP_ABOVE) -> None:
        self.direction = direction
        self._shape = _shape(graph)
        self._seen = graph.nodes
        cells, links = cells_of(graph.nodes, graph.edges, is_merging=len(graph.nodes) > group_above)
        sizes = {cell.key: _cell_size(cell) for cell in cells}
        layout = lay_out([cell.key for cell in cells], links, sizes, direction=direction)
        is_down = direction == "TB"
        cards: list[Row] = []
        frames: list[list[float]] = []
        self._rows: list[Row] = []
        self._index: dict[str, int] = {}
        self._groups: dict[str, tuple[str, ...]] = {}
        for cell in cells:
            box = layout.boxes[cell.key]
            if cell.is_block:
                frames.append(_rounded(box))
            for node, place in _places(cell, box):
                is_group = cell.members > 1 and not cell.is_block
                if is_group:
                    self._groups[node.name] = cell.names
                self._index.update(dict.fromkeys(self.members(node.name), len(cards)))
                is_stack = node.is_sweep or is_group
                cards.append([node.name, clip(node.name, _LONGEST), *_rounded(place), len(self.members(node.name)), int(is_stack)])
                self._rows.append(row_of(node))
        self.data: dict[str, Any] = {
            "title": graph.title,
            "size": [round(layout.width, 1), round(layout.height, 1)],
            "down": is_down,
            "cards": cards,
            "frames": frames,
            "edges": "".join(curve(route, is_down=is_down) for route in layout.routes.values()),
            "arrows": "".join(arrow(route, is_down=is_down) for route in layout.routes.values()),
            "rows": self._rows,
        }

    def members(self, label: str) -> list[str]:
        """Return the steps that a card stands for: itself, unless it is a group."""
        return list(self._groups.get(label, (label,)))

    def update(self, graph: Graph) -> list[tuple[int, Row]] | None:
        """Take the graph as it is now; return the cards that changed, or None if it needs another picture."""
        if _shape(graph) != self._shape:
            return None
        old, self._seen = self._seen, graph.nodes
        changed = {
            self._index[node.name]
            for was, node in zip(old, graph.nodes, strict=True)
            if was is not node and (was.state, was.counts, was.detail, was.note) != (node.state, node.counts, node.detail, node.note)
        }
        if not changed:
            return []
        by_name = {node.name: node for node in graph.nodes}
        patch = []
        for number in sorted(changed):
            label = self.data["cards"][number][0]
            members = [by_name[name] for name in self.members(label)]
            node = merged(members) if len(members) > 1 else members[0]
            row = row_of(node)
            if row != self._rows[number]:
                self._rows[number] = row
                patch.append((number, row))
        return patch


def row_of(node: Node) -> Row:
    """Return what a card says: its state, the words beside it, a sentence, and how many are in which state."""
    beside = ", ".join(filter(None, [node.tally, node.note]))
    is_open = bool(node.counts) and node.state != DECLARED
    shares = [[state, node.counts[state] / node.total] for state in sorted(node.counts, key=rank, reverse=True)] if is_open else []
    return [node.state, clip(beside, 20), node.detail, shares]


def summary(nodes: Iterable[Node]) -> str:
    """Return ``7 of 12 done, 1 failed, 2 running``: jobs, so that a sweep moves it point by point."""
    counts: dict[str, int] = {}
    for node in nodes:
        for state, number in (node.counts or {node.state: 1}).items():
            counts[state] = counts.get(state, 0) + number
    total = sum(counts.values())
    done = counts.pop("completed", 0) + counts.pop("cached", 0)
    others = [f"{counts[state]} {state}" for state in sorted(counts, key=rank) if state != DECLARED]
    return ", ".join([f"{done} of {total} done", *others])


def _shape(graph: Graph) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...], tuple[bool, ...]]:
    return tuple(node.name for node in graph.nodes), graph.edges, tuple(node.is_sweep for node in graph.nodes)


def _card_size(node: Node) -> tuple[float, float]:
    beside = columns(row_of(node)[1])
    name = columns(clip(node.name, _LONGEST)) * _NAME_COLUMN
    room = max(beside, 9 if node.is_sweep else 0) * _SMALL_COLUMN  # a tally grows to 999/1000
    depth = _STACK if node.is_sweep else 0.0
    return max(name + 24, _PILL + room + (14 if room else 0)) + depth, _CARD + depth


def _cell_size(cell: Cell) -> tuple[float, float]:
    if not cell.is_block:
        return _card_size(cell.nodes[0])
    wide, high = _largest(cell)
    rows = -(-len(cell.nodes) // cell.columns)
    return cell.columns * (wide + _GAP) - _GAP + 2 * _PAD, rows * (high + _GAP) - _GAP + 2 * _PAD


def _largest(cell: Cell) -> tuple[float, float]:
    sizes = [_card_size(node) for node in cell.nodes]
    return max(width for width, _ in sizes), max(height for _, height in sizes)


def _places(cell: Cell, box: Box) -> list[tuple[Node, Box]]:
    if not cell.is_block:
        return [(cell.nodes[0], box)]
    wide, high = _largest(cell)
    found = []
    for number, node in enumerate(cell.nodes):
        row, column = divmod(number, cell.columns)
        place = Box(box.x + _PAD + column * (wide + _GAP), box.y + _PAD + row * (high + _GAP), wide, _card_size(node)[1])
        found.append((node, place))
    return found


def _rounded(box: Box) -> list[float]:
    return [round(value, 1) for value in (box.x, box.y, box.width, box.height)]
