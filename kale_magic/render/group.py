"""Which steps of a DAG are drawn together: those with the very same parents and children, and in a large DAG chains.

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
_Groups = dict[str, list[Node]]
_Links = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Cell:
    """One box of the layout: a card, or a frame (``is_block``) with several in ``columns`` columns.

    ``members`` is how many steps it stands for, ``names`` are these.
    """

    key: str
    nodes: tuple[Node, ...]
    members: int = 1
    columns: int = 1
    names: tuple[str, ...] = ()

    @property
    def is_block(self) -> bool:
        """Whether it is a frame around several cards."""
        return len(self.nodes) > 1


def cells_of(
    nodes: Sequence[Node], edges: Iterable[tuple[str, str]], *, is_merging: bool
) -> tuple[list[Cell], list[tuple[str, str]]]:
    """Return the boxes to lay out and the edges between them.

    ``is_merging`` makes one card of each frame, and of each chain of steps, as often as that finds something.
    """
    groups = {node.name: [node] for node in nodes}
    links = [(a, b) for a, b in dict.fromkeys(edges) if a in groups and b in groups]
    if is_merging:
        count = 0
        while count != len(groups):
            count = len(groups)
            groups, links = _contracted(groups, links, _chains(groups, links))
            groups, links = _contracted(groups, links, _twins(groups, links))
    framed = () if is_merging else _twins(groups, links)
    groups, links = _contracted(groups, links, framed)
    cells = [
        Cell(key, tuple(members), len(members), _columns(members), tuple(node.name for node in members))
        if len(members) > 1 and not is_merging
        else Cell(key, (merged(members) if len(members) > 1 else members[0],), len(members), names=tuple(node.name for node in members))
        for key, members in groups.items()
    ]
    place = {node.name: n for n, node in enumerate(nodes)}
    return sorted(cells, key=lambda cell: place[cell.key]), links


def _twins(groups: _Groups, links: _Links) -> list[list[str]]:
    """Return the keys of groups that have the same parents and the same children, where they are many."""
    parents, children = _neighbours(groups, links)
    same: dict[tuple[frozenset[str], frozenset[str]], list[str]] = {}
    for key in groups:
        same.setdefault((frozenset(parents[key]), frozenset(children[key])), []).append(key)
    return [keys for keys in same.values() if len(keys) >= _LEAST]


def _chains(groups: _Groups, links: _Links) -> list[list[str]]:
    """Return the keys of groups that follow each other with nothing else before or after: long chains, or many short ones.

    Groups in a chain are of one size, so that a fan between two steps stays a fan.
    """
    parents, children = _neighbours(groups, links)
    after = {
        key: following[0]
        for key, following in children.items()
        if len(following) == 1 and len(parents[following[0]]) == 1 and len(groups[key]) == len(groups[following[0]])
    }
    found = []
    inner = set(after.values())
    for head in (key for key in after if key not in inner):
        chain = [head]
        while chain[-1] in after:
            chain.append(after[chain[-1]])
        found.append(chain)
    return found if len(found) >= _LEAST else [chain for chain in found if len(chain) >= _LEAST]


def _contracted(groups: _Groups, links: _Links, parts: Iterable[list[str]]) -> tuple[_Groups, _Links]:
    """Return the graph in which the groups of each part are one, with the key of the first."""
    owner = {key: part[0] for part in parts for key in part}
    found: _Groups = {}
    for key, members in groups.items():
        found.setdefault(owner.get(key, key), [])
        found[owner.get(key, key)] += members
    moved = dict.fromkeys((owner.get(a, a), owner.get(b, b)) for a, b in links)
    return found, [(a, b) for a, b in moved if a != b]


def _neighbours(groups: _Groups, links: _Links) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    parents: dict[str, list[str]] = {key: [] for key in groups}
    children: dict[str, list[str]] = {key: [] for key in groups}
    for a, b in links:
        children[a].append(b)
        parents[b].append(a)
    return parents, children


def merged(group: Sequence[Node]) -> Node:
    """Return one node for many: named after the first and the last, in the state that most needs a person."""
    counts: dict[str, int] = {}
    for node in group:
        counts[node.state] = counts.get(node.state, 0) + 1
    state = min(counts, key=rank)
    return Node(name=f"{group[0].name} … {group[-1].name}", state=state, counts=counts, detail=f"{len(group)} steps")


def _columns(group: Sequence[Node]) -> int:
    return max(2, round(math.sqrt(len(group) / 2.2)))  # a card is about as wide as two and a half are high
