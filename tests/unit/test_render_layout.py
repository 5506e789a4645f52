"""The layout: layers, order, room, circles."""

import random

import pytest

from kale_magic.render.layout import Box, lay_out

SIZE = (100.0, 40.0)


def laid_out(names, edges, **options):
    return lay_out(names, edges, dict.fromkeys(names, SIZE), **options)


def overlap(a: Box, b: Box) -> bool:
    return a.x < b.x + b.width and b.x < a.x + a.width and a.y < b.y + b.height and b.y < a.y + a.height


def test_each_edge_goes_to_the_right_and_joins_the_boxes():
    edges = [("a", "b"), ("b", "c"), ("a", "c"), ("c", "d")]
    layout = laid_out("abcd", edges)
    assert layout.layers == [["a"], ["b"], ["c"], ["d"]]
    for a, b in edges:
        route = layout.routes[a, b]
        assert route[0][0] == layout.boxes[a].x + 100
        assert route[-1][0] == layout.boxes[b].x
        assert route[0][1] == layout.boxes[a].y + 20
        assert [x for x, _ in route] == sorted(x for x, _ in route)


def test_top_down_is_the_transposed_picture():
    edges = [("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")]
    square = dict.fromkeys("abcd", (50.0, 50.0))
    across, down = lay_out("abcd", edges, square), lay_out("abcd", edges, square, direction="TB")
    assert {name: (box.y, box.x) for name, box in across.boxes.items()} == {
        name: (box.x, box.y) for name, box in down.boxes.items()
    }
    assert (across.width, across.height) == (down.height, down.width)


def test_order_within_layers_removes_avoidable_crossings():
    layout = laid_out(["a", "b", "y", "x"], [("a", "x"), ("b", "y"), ("a", "z"), ("b", "z")])
    assert layout.layers[0].index("a") - layout.layers[0].index("b") == layout.layers[1].index("x") - layout.layers[
        1
    ].index("y")


def test_long_edge_runs_beside_the_boxes_it_passes():
    layout = laid_out("abc", [("a", "b"), ("b", "c"), ("a", "c")])
    box = layout.boxes["b"]
    passing = [y for x, y in layout.routes["a", "c"] if box.x <= x <= box.x + box.width]
    assert passing
    assert all(y <= box.y or y >= box.y + box.height for y in passing)


def test_a_source_stands_next_to_its_consumer():
    layout = laid_out("abcd", [("a", "b"), ("b", "c"), ("d", "c")])
    assert layout.boxes["d"].x == layout.boxes["b"].x


def test_steps_without_edges_stand_in_a_line_after_the_rest():
    layout = laid_out(["lone", "a", "b", "alone"], [("a", "b")])
    below = layout.boxes["a"].y + 40
    assert layout.boxes["lone"].y == layout.boxes["alone"].y > below
    assert layout.boxes["lone"].x + 100 < layout.boxes["alone"].x


def test_circle_is_drawn_with_one_edge_going_back():
    layout = laid_out("abc", [("a", "b"), ("b", "c"), ("c", "a")])
    assert layout.boxes["a"].x < layout.boxes["b"].x < layout.boxes["c"].x
    assert layout.routes["c", "a"][0][0] > layout.routes["c", "a"][-1][0]


def test_foreign_names_and_loops_are_left_out():
    layout = laid_out("ab", [("a", "a"), ("a", "elsewhere"), ("a", "b"), ("a", "b")])
    assert list(layout.routes) == [("a", "b")]


@pytest.mark.parametrize("direction", ["LR", "TB"])
@pytest.mark.parametrize("seed", range(5))
def test_no_two_boxes_overlap(seed, direction):
    chance = random.Random(seed)
    names = [f"s{n}" for n in range(60)]
    edges = [(names[chance.randrange(n)], names[n]) for n in range(1, 60) for _ in range(chance.randrange(3))]
    sizes = {name: (chance.uniform(60, 200), chance.uniform(30, 60)) for name in names}
    boxes = list(lay_out(names, edges, sizes, direction=direction).boxes.values())
    assert not [(a, b) for n, a in enumerate(boxes) for b in boxes[:n] if overlap(a, b)]
    assert min(box.x for box in boxes) > -1e-6
    assert min(box.y for box in boxes) > -1e-6


def test_dense_graph_is_laid_out_without_a_via_per_layer():
    names = [f"s{n}" for n in range(150)]
    edges = [(a, b) for n, b in enumerate(names) for a in names[:n]]
    layout = laid_out(names, edges)
    assert len(layout.layers) == 150
    assert len(layout.routes["s0", "s149"]) == 2


def test_nothing_is_laid_out_as_nothing():
    layout = laid_out([], [])
    assert (layout.boxes, layout.width, layout.height) == ({}, 0.0, 0.0)
