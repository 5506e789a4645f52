"""Which steps of a DAG are drawn together: steps with the very same parents and children are twins.

A wide fan-out would be a tower of cards with a fan of curves on each side; as one frame it has one curve
to each neighbour and a shape that fits a page.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kale_magic.render.palette import rank
from kale_magic.render.view import Node

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_LEAST = 9  # a column of eight cards is as easily read as a grid


@dataclass(frozen=True, slots=True)
class Cell:
    """One box of the layout: a card, or a frame (``is_block``) with several in ``columns`` columns.

    ``members`` is how many steps it stands for.
    """

    key: str
    nodes: tuple[Node, ...]
    members: int = 1
    columns: int = 1

    @property
    def is_block(self) -> bool:
        """Whether it is a frame around several cards."""
        return len(self.nodes) > 1


def cells_of(
    nodes: Sequence[Node], edges: Iterable[tuple[str, str]], *, is_merging: bool
) -> tuple[list[Cell], list[tuple[str, str]]]:
    """Return the boxes to lay out and the edges between them; ``is_merging`` makes one card of each frame."""
    pairs = list(dict.fromkeys(edges))
    parents: dict[str, list[str]] = {node.name: [] for node in nodes}
    children: dict[str, list[str]] = {node.name: [] for node in nodes}
    for a, b in pairs:
        if a in children and b in parents:
            children[a].append(b)
            parents[b].append(a)
    twins: dict[tuple[frozenset[str], frozenset[str]], list[Node]] = {}
    for node in nodes:
        twins.setdefault((frozenset(parents[node.name]), frozenset(children[node.name])), []).append(node)
    cells: list[Cell] = []
    owner: dict[str, str] = {}
    for group in twins.values():
        if len(group) < _LEAST:
            cells += [Cell(node.name, (node,)) for node in group]
            owner.update((node.name, node.name) for node in group)
            continue
        key = group[0].name
        owner.update((node.name, key) for node in group)
        cells.append(
            Cell(key, (merged(group),), len(group))
            if is_merging
            else Cell(key, tuple(group), len(group), _columns(group))
        )
    place = {node.name: n for n, node in enumerate(nodes)}
    cells.sort(key=lambda cell: place[cell.key])
    links = dict.fromkeys((owner[a], owner[b]) for a, b in pairs if a in owner and b in owner)
    return cells, list(links)


def merged(group: Sequence[Node]) -> Node:
    """Return one node for many: named after the first and the last, in the state that most needs a person."""
    counts: dict[str, int] = {}
    for node in group:
        counts[node.state] = counts.get(node.state, 0) + 1
    state = min(counts, key=rank)
    return Node(name=f"{group[0].name} … {group[-1].name}", state=state, counts=counts, detail=f"{len(group)} steps")


def _columns(group: Sequence[Node]) -> int:
    return max(2, round(math.sqrt(len(group) / 2.2)))  # a card is about as wide as two and a half are high
