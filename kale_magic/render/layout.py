"""Where the nodes of a DAG go: layers by longest path, order in a layer by barycentre, then places.

Owns geometry only (names and sizes in, boxes and curves out); the drawing is :mod:`kale_magic.render.svg`.
The steps are those of K. Sugiyama, S. Tagawa, M. Toda, IEEE Trans. Syst. Man Cybern. 11 (1981) 109; the
places within a layer are the least-squares ones that keep the order (pool adjacent violators).
"""

from __future__ import annotations

import itertools
from bisect import bisect_right, insort
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_SWEEPS = 4
_VIA_SIZE = 10.0  # room across for an edge that passes a layer
_PART_GAPS = 2  # room between parts that don't hang together, in gaps


@dataclass(frozen=True, slots=True)
class Box:
    """A node's place: upper left corner and size, in pixels."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Layout:
    """Boxes by name, and for each edge the points that its curve goes through, from box to box."""

    boxes: dict[str, Box]
    routes: dict[tuple[str, str], tuple[tuple[float, float], ...]]
    width: float
    height: float
    layers: list[list[str]]


def lay_out(
    names: Sequence[str],
    edges: Iterable[tuple[str, str]],
    sizes: Mapping[str, tuple[float, float]],
    *,
    direction: Literal["LR", "TB"] = "LR",
    gap_along: float = 44.0,
    gap_across: float = 12.0,
) -> Layout:
    """Place a DAG; a circle in it is drawn too, one of its edges going back.

    Parameters
    ----------
    names : sequence of str
        Nodes in order of declaration, which decides where nothing else does.
    edges : iterable of (producer, consumer)
        Edges to names that are not in ``names``, and from a node to itself, are left out.
    sizes : mapping of str to (width, height)
        In pixels.
    direction : {"LR", "TB"}
        Where the DAG flows: to the right, or down.
    gap_along, gap_across : float
        Least room between layers, and between neighbours in one layer.
    """
    known = set(names)
    pairs = [(a, b) for a, b in dict.fromkeys(edges) if a != b and a in known and b in known]
    is_across = direction == "TB"
    parts, singles = _components(names, pairs)
    boxes: dict[str, Box] = {}
    routes: dict[tuple[str, str], tuple[tuple[float, float], ...]] = {}
    layers: list[list[str]] = []
    end = 0.0
    for members, links in parts:
        along = {name: sizes[name][1 if is_across else 0] for name in members}
        across = {name: sizes[name][0 if is_across else 1] for name in members}
        part = _lay_out_component(members, links, along, across, gap_along, gap_across)
        boxes.update({name: Box(box.x, box.y + end, box.width, box.height) for name, box in part.boxes.items()})
        routes.update({pair: tuple((x, y + end) for x, y in points) for pair, points in part.routes.items()})
        layers += [[] for _ in range(len(part.layers) - len(layers))]
        for level, layer in enumerate(part.layers):
            layers[level] += layer
        end += part.height + gap_across * _PART_GAPS
    at = 0.0
    for name in singles:  # steps without edges stand in one line, after the rest
        length, breadth = (sizes[name][1], sizes[name][0]) if is_across else sizes[name]
        boxes[name] = Box(at, end, length, breadth)
        at += length + gap_across
    if singles:
        layers = [[*(layers[0] if layers else []), *singles], *layers[1:]]
    if is_across:
        boxes = {name: Box(box.y, box.x, box.height, box.width) for name, box in boxes.items()}
        routes = {pair: tuple((y, x) for x, y in points) for pair, points in routes.items()}
    width = max((box.x + box.width for box in boxes.values()), default=0.0)
    height = max((box.y + box.height for box in boxes.values()), default=0.0)
    return Layout(boxes, routes, width, height, layers)


def _components(
    names: Sequence[str], pairs: list[tuple[str, str]]
) -> tuple[list[tuple[list[str], list[tuple[str, str]]]], list[str]]:
    """Return the parts that hang together, as nodes and edges, and the nodes without any edge."""
    leader = {name: name for name in names}

    def find(name: str) -> str:
        while leader[name] != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    for a, b in pairs:
        leader[find(b)] = find(a)
    parts: dict[str, tuple[list[str], list[tuple[str, str]]]] = {}
    for name in names:
        parts.setdefault(find(name), ([], []))[0].append(name)
    for a, b in pairs:
        parts[find(a)][1].append((a, b))
    singles = [members[0] for members, _ in parts.values() if len(members) == 1]
    return [part for part in parts.values() if len(part[0]) > 1], singles


def _lay_out_component(
    names: list[str],
    pairs: list[tuple[str, str]],
    along: dict[str, float],
    across: dict[str, float],
    gap_along: float,
    gap_across: float,
) -> Layout:
    rank = _ranks(names, pairs)
    layers, links, chains = _with_vias(names, pairs, rank)
    graph = _Layers(layers, links)
    graph.reduce_crossings()
    return _assemble(graph, chains, graph.places(dict(across), gap_across), along, across, gap_along)


def _ranks(names: Sequence[str], edges: list[tuple[str, str]]) -> dict[str, int]:
    """Return each node's layer: its longest path from a source; sources then move towards their consumers."""
    children: dict[str, list[str]] = {name: [] for name in names}
    missing = dict.fromkeys(names, 0)
    for a, b in edges:
        children[a].append(b)
        missing[b] += 1
    degree_in = dict(missing)
    rank = dict.fromkeys(names, 0)
    ready = [name for name in names if not missing[name]]
    order: list[str] = []
    placed = set(ready)
    rest = iter(names)
    while len(order) < len(names):
        if not ready:  # a circle: its first node in order of declaration goes first
            first = next(name for name in rest if name not in placed)
            placed.add(first)
            ready.append(first)
        node = ready.pop()
        order.append(node)
        for child in children[node]:
            if child not in placed:
                rank[child] = max(rank[child], rank[node] + 1)
                missing[child] -= 1
                if not missing[child]:
                    placed.add(child)
                    ready.append(child)
    for node in reversed(order):
        nearest = min((rank[child] for child in children[node] if rank[child] > rank[node]), default=0)
        if nearest and degree_in[node] < len(children[node]):
            rank[node] = max(rank[node], nearest - 1)
    return rank


def _with_vias(
    names: Sequence[str], edges: list[tuple[str, str]], rank: dict[str, int]
) -> tuple[list[list[str]], list[tuple[str, str]], dict[tuple[str, str], list[str]]]:
    """Return layers with a via wherever an edge passes one, the links between neighbouring layers, and each edge's vias."""
    layers: list[list[str]] = [[] for _ in range(max(rank.values(), default=0) + 1)]
    for name in names:
        layers[rank[name]].append(name)
    span = sum(max(0, abs(rank[b] - rank[a]) - 1) for a, b in edges)
    is_dense = span > 4 * len(names) + 400  # vias would then cost more than they show
    links: list[tuple[str, str]] = []
    chains: dict[tuple[str, str], list[str]] = {}
    for a, b in edges:
        low, high = sorted((a, b), key=rank.__getitem__)
        steps = [] if is_dense else [f"\0{a}\0{b}\0{level}" for level in range(rank[low] + 1, rank[high])]
        for level, via in enumerate(steps, rank[low] + 1):
            layers[level].append(via)
        chain = [low, *steps, high]
        if rank[high] - rank[low] == len(chain) - 1:  # so not where a dense graph skips layers
            links += itertools.pairwise(chain)
        chains[a, b] = steps if low == a else steps[::-1]
    return layers, links, chains


class _Layers:
    """Layers of nodes and vias whose order and places are being improved."""

    def __init__(self, layers: list[list[str]], links: list[tuple[str, str]]) -> None:
        self.layers = layers
        self._before: dict[str, list[str]] = {node: [] for layer in layers for node in layer}
        self._after: dict[str, list[str]] = {node: [] for layer in layers for node in layer}
        for a, b in links:
            self._after[a].append(b)
            self._before[b].append(a)

    def reduce_crossings(self) -> None:
        """Order each layer by the mean place of its neighbours, back and forth; keep the best order seen."""
        best, fewest = [list(layer) for layer in self.layers], self._crossings()
        for sweep in range(_SWEEPS):
            if not fewest:
                break
            is_forward = sweep % 2 == 0
            towards = self._before if is_forward else self._after
            index = {node: n for layer in self.layers for n, node in enumerate(layer)}
            for layer in self.layers if is_forward else self.layers[::-1]:
                layer.sort(key=lambda node: _mean([index[other] for other in towards[node]], index[node]))
                index.update({node: n for n, node in enumerate(layer)})
            crossings = self._crossings()
            if crossings < fewest:
                best, fewest = [list(layer) for layer in self.layers], crossings
        self.layers = best

    def _crossings(self) -> int:
        total = 0
        for layer, following in zip(self.layers, self.layers[1:], strict=False):
            index = {node: n for n, node in enumerate(following)}
            seen: list[int] = []
            for node in layer:
                ends = [index[other] for other in self._after[node]]
                total += sum(len(seen) - bisect_right(seen, end) for end in ends)
                for end in ends:
                    insort(seen, end)
        return total

    def places(self, sizes: dict[str, float], gap: float) -> dict[str, float]:
        """Return the centre of each node across the layers, near its neighbours', order and gaps kept."""
        centre: dict[str, float] = {}
        for layer in self.layers:
            at = 0.0
            for node in layer:
                size = sizes.setdefault(node, _VIA_SIZE)
                centre[node] = at + size / 2
                at += size + gap
        for sweep in range(2 * _SWEEPS):
            is_forward = sweep % 2 == 1
            towards = self._before if is_forward else self._after
            for layer in self.layers if is_forward else self.layers[::-1]:
                wishes = [_mean([centre[other] for other in towards[node]], centre[node]) for node in layer]
                weights = [1.0 + len(towards[node]) if towards[node] else 0.1 for node in layer]
                room = [(sizes[a] + sizes[b]) / 2 + gap for a, b in itertools.pairwise(layer)]
                centre.update(zip(layer, _keep_order(wishes, weights, room), strict=True))
        top = min((centre[node] - sizes[node] / 2 for node in centre), default=0.0)
        return {node: at - top for node, at in centre.items()}


def _keep_order(wishes: list[float], weights: list[float], room: list[float]) -> list[float]:
    """Return the places nearest to ``wishes`` (weighted least squares) with at least ``room`` between neighbours."""
    shift = [0.0]
    for gap in room:
        shift.append(shift[-1] + gap)
    blocks: list[tuple[float, float, int]] = []  # mean, weight, how many
    for wish, weight, offset in zip(wishes, weights, shift, strict=False):
        mean, total, count = wish - offset, weight, 1
        while blocks and blocks[-1][0] >= mean:
            other, heavier, more = blocks.pop()
            mean = (mean * total + other * heavier) / (total + heavier)
            total, count = total + heavier, count + more
        blocks.append((mean, total, count))
    flat = [mean for mean, _, count in blocks for _ in range(count)]
    return [mean + offset for mean, offset in zip(flat, shift, strict=False)]


def _assemble(
    graph: _Layers,
    chains: dict[tuple[str, str], list[str]],
    places: dict[str, float],
    along: dict[str, float],
    across: dict[str, float],
    gap: float,
) -> Layout:
    start: dict[str, float] = {}
    depth: dict[str, float] = {}
    at = 0.0
    for layer in graph.layers:
        thick = max((along[node] for node in layer if node in along), default=0.0)
        start.update(dict.fromkeys(layer, at))
        depth.update(dict.fromkeys(layer, thick))
        at += thick + gap
    routes = {}
    for (a, b), vias in chains.items():
        is_back = start[a] >= start[b]
        points = [(start[a] + (0.0 if is_back else along[a]), places[a])]
        for via in vias:  # straight through the whole layer, so that no curve cuts a wide neighbour
            ends = [(start[via], places[via]), (start[via] + depth[via], places[via])]
            points += ends[::-1] if is_back else ends
        points.append((start[b] + (along[b] if is_back else 0.0), places[b]))
        routes[a, b] = tuple(points)
    boxes = {name: Box(start[name], places[name] - across[name] / 2, along[name], across[name]) for name in along}
    real = [[node for node in layer if node in along] for layer in graph.layers]
    width = max((box.x + box.width for box in boxes.values()), default=0.0)
    height = max((box.y + box.height for box in boxes.values()), default=0.0)
    return Layout(boxes, routes, width, height, real)


def _mean(values: list[int] | list[float], default: float) -> float:
    return sum(values) / len(values) if values else default
