"""The static picture: what programs and screen readers find in it, what it must not let through."""

import re
import xml.etree.ElementTree as ET

import pytest

from kale_magic.model.states import StepState
from kale_magic.render.palette import COLOURS, mark
from kale_magic.render.svg import dag_svg, graph_svg
from kale_magic.render.view import STATES, Node, graph_of_status

NS = "{http://www.w3.org/2000/svg}"
NASTY = "<script>alert('1')</script>&\"'\x00\x1b[31m"


def buttons(svg):
    return [group for group in ET.fromstring(svg).iter(f"{NS}g") if group.get("role") == "button"]


def texts(element):
    return [text.text for text in element.iter(f"{NS}text")]


def test_each_node_is_a_labelled_button():
    svg = dag_svg(
        [Node(name="relax", state="completed"), Node(name="fit", state="running")], [("relax", "fit")], title="eos"
    )
    found = {group.get("data-kale-step"): group for group in buttons(svg)}
    assert list(found) == ["relax", "fit"]
    assert found["fit"].get("data-kale-state") == "running"
    assert found["fit"].get("aria-label") == "fit: running"
    assert "running" in texts(found["fit"])
    assert ET.fromstring(svg).get("aria-label") == "workflow eos"


@pytest.mark.parametrize("state", STATES)
def test_each_state_has_a_word_and_a_colour_of_its_own(state):
    svg = dag_svg([Node(name="s", state=state)], [])
    assert COLOURS[state] in svg
    assert sum(value == COLOURS[state] for value in COLOURS.values()) == 1
    if state != "declared":
        assert state in texts(buttons(svg)[0])


def test_white_text_on_each_colour_has_enough_contrast():
    def luminance(colour):
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    assert {
        state: round(1.05 / (luminance(colour) + 0.05), 2)
        for state, colour in COLOURS.items()
        if 1.05 / (luminance(colour) + 0.05) < 4.5
    } == {}


def test_sweep_is_a_stack_with_a_tally():
    sweep = Node(name="curve", state="running", counts={"completed": 2, "running": 1})
    svg = dag_svg([sweep], [])
    assert "2/3" in texts(buttons(svg)[0])
    single = dag_svg([Node(name="curve", state="running")], [])
    assert svg.count('class="kc"') == single.count('class="kc"') + 2


def test_sweep_that_was_only_declared_says_how_many_points():
    assert "3 points" in texts(buttons(dag_svg([Node(name="curve", counts={"declared": 3})], []))[0])


def test_text_of_users_is_escaped_everywhere():
    svg = dag_svg([Node(name=NASTY, state="failed", note=NASTY, detail=NASTY)], [(NASTY, NASTY)], title=NASTY)
    assert "<script" not in svg
    ET.fromstring(svg)  # well-formed in spite of control characters
    assert "javascript" not in svg
    assert "<script>alert('1')" in buttons(svg)[0].get("data-kale-step")


def test_picture_is_self_contained():
    svg = dag_svg([Node(name="a"), Node(name="b")], [("a", "b")])
    assert re.findall(r"https?://[^\"' ]+", svg) == ["http://www.w3.org/2000/svg"]
    assert "url(" not in svg
    assert "prefers-color-scheme:dark" in svg


def test_edges_to_unknown_names_are_not_drawn():
    plain = dag_svg([Node(name="a")], [])
    assert dag_svg([Node(name="a")], [("a", "gone"), ("gone", "a")]) == plain


def fan(width):
    middle = [Node(name=f"m{n}", state="completed" if n % 2 else "failed") for n in range(width)]
    nodes = [Node(name="prep", state="completed"), *middle, Node(name="join", state="waiting")]
    edges = [("prep", node.name) for node in middle] + [(node.name, "join") for node in middle]
    return nodes, edges


def test_wide_fan_stands_in_one_frame_with_every_step_a_button():
    svg = dag_svg(*fan(40))
    assert len(buttons(svg)) == 42
    assert svg.count('class="kb"') == 1
    paths = [path for group in ET.fromstring(svg).iter(f"{NS}g") if group.get("class") == "ke" for path in group]
    assert len(paths) == 2


def test_fan_of_a_large_workflow_is_one_card_with_counts():
    svg = dag_svg(*fan(300))
    assert [group.get("data-kale-step") for group in buttons(svg)] == ["prep", "join"]
    card = next(group for group in ET.fromstring(svg).iter(f"{NS}g") if group.get("data-kale-group") == "300")
    assert "150/300" in texts(card)
    assert "failed" in texts(card)


def test_long_names_are_cut_but_known_to_programs():
    name = "a" * 64
    group = buttons(dag_svg([Node(name=name, state="running")], []))[0]
    assert group.get("aria-label") == f"{name}: running"
    assert any(text.endswith("…") for text in texts(group))


def test_state_of_a_later_version_is_shown_as_it_is():
    group = buttons(dag_svg([Node(name="a", state="frozen")], []))[0]
    assert group.get("data-kale-state") == "frozen"
    assert "frozen" in texts(group)
    assert mark("frozen") == "?"


def test_palette_knows_every_state():
    assert {state.value for state in StepState} <= COLOURS.keys()


def test_status_is_drawn_with_its_own_edges_and_the_plans():
    status = {
        "run": "eos-1",
        "steps": {"a": {"state": "completed"}, "b": {"state": "queued", "parents": ["a"]}, "c": {"state": "waiting"}},
    }
    graph = graph_of_status(status, [("b", "c"), ("b", "gone")])
    assert graph.edges == (("b", "c"), ("a", "b"))
    assert {group.get("aria-label") for group in buttons(graph_svg(graph))} == {
        "a: completed",
        "b: queued",
        "c: waiting",
    }


def test_chains_of_a_large_workflow_are_one_card_each():
    nodes = [Node(name=f"{letter}{n}", state="completed") for letter in "ab" for n in range(150)]
    edges = [(f"{letter}{n}", f"{letter}{n + 1}") for letter in "ab" for n in range(149)]
    svg = dag_svg([*nodes, Node(name="end", state="waiting")], [*edges, ("a149", "end"), ("b149", "end")])
    assert [group.get("data-kale-step") for group in buttons(svg)] == ["end"]
    assert [
        group.get("data-kale-group") for group in ET.fromstring(svg).iter(f"{NS}g") if group.get("data-kale-group")
    ] == ["150", "150"]


def test_many_chains_side_by_side_are_one_card():
    nodes = [Node(name=f"{letter}{n}", state="completed") for n in range(100) for letter in "abc"]
    edges = [(f"a{n}", f"b{n}") for n in range(100)] + [(f"b{n}", f"c{n}") for n in range(100)]
    svg = dag_svg(nodes, edges)
    assert 'data-kale-group="300"' in svg
    assert not buttons(svg)


def test_circle_in_a_large_workflow_is_drawn():
    nodes = [Node(name=f"s{n}") for n in range(250)]
    svg = dag_svg(nodes, [(f"s{n}", f"s{(n + 1) % 250}") for n in range(250)])
    assert len(buttons(svg)) == 250
