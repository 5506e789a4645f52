"""The view models of the dashboard: places and changes of the picture, the panel of a step, the buttons."""

from __future__ import annotations

import itertools
import threading
from datetime import UTC, datetime

import pytest

from kale_magic.errors import UsageError
from kale_magic.model.step import Axis, Step
from kale_magic.model.workflow import Workflow
from kale_magic.render.markdown import markdown_html
from kale_magic.render.view import Graph, Node
from kale_magic.widgets._page import MOST_BYTES, script
from kale_magic.widgets.desk import Seen
from kale_magic.widgets.parts import Picture
from kale_magic.widgets.viewmodel import actions, pools, queue, usage
from kale_magic.widgets.viewmodel.dag import Scene, summary
from kale_magic.widgets.viewmodel.step import Kept, panel

NOW = datetime(2026, 11, 28, 10, 0, 30, tzinfo=UTC)


def chain(*states: str) -> Graph:
    nodes = tuple(Node(name=f"s{n}", state=state) for n, state in enumerate(states))
    return Graph(nodes, tuple((a.name, b.name) for a, b in itertools.pairwise(nodes)), "eos")


def fan(count: int, state: str = "waiting") -> Graph:
    nodes = (Node(name="a", state=state), *(Node(name=f"m{n}", state=state) for n in range(count)), Node(name="z", state=state))
    return Graph(nodes, tuple(edge for n in range(count) for edge in (("a", f"m{n}"), (f"m{n}", "z"))), "fan")


def with_state(graph: Graph, name: str, state: str) -> Graph:
    nodes = tuple(Node(name=node.name, state=state if node.name == name else node.state) for node in graph.nodes)
    return Graph(nodes, graph.edges, graph.title)


def test_cards_of_one_layer_do_not_overlap_and_follow_the_flow() -> None:
    cards = Scene(fan(3)).data["cards"]
    by_name = {card[0]: card for card in cards}
    assert by_name["a"][2] + by_name["a"][4] < by_name["m0"][2] < by_name["z"][2]
    tops = sorted((card[3], card[3] + card[5]) for card in cards if card[0].startswith("m"))
    assert all(low < high for (_, low), (high, _) in itertools.pairwise(tops))


def test_only_the_cards_that_changed_are_told() -> None:
    graph = chain("running", "waiting", "waiting")
    scene = Scene(graph)
    assert scene.update(graph) == []
    assert scene.update(with_state(graph, "s1", "queued")) == [(1, ["queued", "", "", []])]
    assert scene.data["rows"][1][0] == "queued"  # so that a page that comes late has it too


def test_another_step_or_edge_needs_another_picture() -> None:
    scene = Scene(chain("waiting", "waiting"))
    assert scene.update(chain("waiting", "waiting", "waiting")) is None


def test_wide_fan_above_the_limit_is_one_card_with_counts() -> None:
    graph = fan(300)
    scene = Scene(graph)
    group = next(card for card in scene.data["cards"] if card[6] > 1)
    assert group[6] == 300
    assert len(scene.members(group[0])) == 300
    [(number, row)] = scene.update(with_state(graph, "m7", "failed")) or []
    assert scene.data["cards"][number][0] == group[0]
    assert row[0] == "failed"
    assert dict(row[3]) == {"failed": pytest.approx(1 / 300), "waiting": pytest.approx(299 / 300)}


def test_ten_thousand_steps_are_few_cards() -> None:
    assert len(Scene(fan(10_000)).data["cards"]) == 3


def test_summary_counts_the_points_of_a_sweep() -> None:
    nodes = [Node(name="a", state="completed"), Node(name="b", state="running", counts={"completed": 2, "running": 1})]
    assert summary(nodes) == "3 of 4 done, 1 running"


def workflow() -> Workflow:
    sweep = Step(
        name="curve", code="print(1)\n", description="$E(V)$ of **metals**", params={"n": 2}, each=(Axis("metal", ("Al", "Cu"), "['Al', 'Cu']"),)
    )
    return Workflow(name="eos", steps={"curve": sweep}, markdown={"curve": "more"})


def test_panel_of_a_sweep_lists_points_and_that_of_a_point_its_values() -> None:
    item = {
        "state": "failed",
        "points": {
            "0": {"state": "completed", "queued_at": "2026-11-28T10:00:00Z", "started_at": "2026-11-28T10:00:05Z", "ended_at": "2026-11-28T10:00:15Z"},
            "1": {"state": "failed", "reason": "KeyError: 'x'", "error": {"ename": "KeyError", "evalue": "'x'", "traceback": ["\x1b[31mKeyError\x1b[0m <b>"]}},
        },
    }
    whole = panel("curve", None, item, workflow(), Kept())
    assert [row[:3] for row in whole["points"]] == [[0, "metal=Al", "completed"], [1, "metal=Cu", "failed"]]
    assert "<math" in whole["html"]
    assert "<strong>metals</strong>" in whole["html"]
    first = panel("curve", 0, item, workflow(), Kept(), now=NOW)
    assert first["label"] == "curve[metal=Al]"
    assert ["waited", "5.0 s"] in first["facts"]
    assert ["ran", "10 s"] in first["facts"]
    assert first["swept"] == [["metal", "'Al'"]]
    bad = panel("curve", 1, item, workflow(), Kept())
    assert bad["reason"] == "KeyError: 'x'"
    assert '<span class="ansi-red-fg">KeyError</span> &lt;b&gt;' in bad["traceback"]


def test_panel_without_a_run_shows_what_was_declared() -> None:
    view = panel("curve", None, None, workflow(), Kept())
    assert (view["state"], view["code"], view["params"]) == ("declared", "print(1)\n", [["n", "2"]])


def test_history_is_in_order_and_a_half_written_line_is_left_out() -> None:
    item = {"state": "completed", "attempt": 2, "queued_at": "2026-11-28T10:00:00Z", "started_at": "2026-11-28T10:00:09Z"}
    events = '{"at": "2026-11-28T10:00:05Z", "attempt": 1, "event": "ended", "state": "failed", "reason": "walltime"}\n{"at": "20'
    history = panel("curve", None, item, workflow(), Kept(events=events))["history"]
    assert [what for _, what in history] == ["queued", "attempt 1 failed walltime", "started"]


def test_history_says_who_let_a_step_go_on_and_with_what() -> None:
    item = {"state": "completed", "attempt": 1, "queued_at": "2026-11-28T10:00:00Z"}
    events = (
        '{"at": "2026-11-28T10:00:05Z", "event": "gated", "reason": "asks: Which?"}\n'
        '{"at": "2026-11-28T10:00:06Z", "event": "resumed", "reason": "", "by": "ada@lab", "set": {"n": "7"}}\n'
        '{"at": "2026-11-28T10:00:07Z", "event": "resumed", "reason": "", "by": "ada@lab", "answer": "Cu"}\n'
    )
    history = panel("curve", None, item, workflow(), Kept(events=events))["history"]
    assert [what for _, what in history] == ["queued", "gated asks: Which?", "resumed by ada@lab, with n=7", "resumed by ada@lab, answer 'Cu'"]


@pytest.mark.parametrize("hostile", ["<img src=x onerror=alert(1)>", "[x](javascript:alert(1))", "$\\text{<script>alert(1)</script>}$", "$\\text{<meta http-equiv='refresh' content='0'/>}$", "![x](http://a/b)"])
def test_description_of_a_stranger_runs_nothing_and_loads_nothing(hostile: str) -> None:
    html = markdown_html(hostile)
    assert "<img" not in html
    assert "<script" not in html
    assert "<meta" not in html
    assert 'href="javascript' not in html


def test_formula_of_its_own_line_needs_no_empty_line_before() -> None:
    html = markdown_html("Verlet,\n$$ v = \\frac{F}{m} $$\nand so on")
    assert 'display="block"' in html
    assert "$" not in html


def test_formula_that_cannot_be_read_stays_as_written() -> None:
    assert "\\frac{" in markdown_html("$\\frac{$")


def on(states: dict[str, str], selected: list[str]) -> set[str]:
    return {button["name"] for button in actions.offered(states, selected, can_submit=True) if button["on"]}


def test_buttons_fit_what_is_selected() -> None:
    states = {"a": "completed", "b": "running", "c": "waiting", "d": "failed"}
    assert on(states, []) == {"run", "again", "cancel"}
    assert on(states, ["a"]) == {"run", "from"}
    assert on(states, ["b"]) == {"run", "from", "pause", "stop", "cancel", "open"}
    assert on(states, ["b", "c"]) == {"run", "from", "pause", "stop", "cancel"}
    assert "resume" in on({"a": "paused"}, ["a"])
    assert "continue" in on({"a": "gated", "b": "running"}, ["a"])
    assert "continue" not in on({"a": "gated", "b": "running"}, ["b"])
    assert on(states, ["d"]) == {"run", "from", "again"}
    assert on({"a": "completed"}, []) == {"run"}


def test_rerun_failed_begins_with_what_failed_among_the_selected() -> None:
    states = {"a": "failed", "b": "cancelled", "c": "completed"}
    assert actions.failed(states, []) == ["a", "b"]
    assert actions.failed(states, ["b", "c"]) == ["b"]


@pytest.mark.parametrize("name", ["dag", "actions", "step", "job logs", "job charts", "job cloud charts", "queue", "pools", "ssh"])
def test_script_of_a_widget_stays_below_ten_kilobytes(name: str) -> None:
    assert len(script(*name.split()).encode()) < MOST_BYTES


def test_rates_come_from_counters_and_what_says_nothing_is_left_out() -> None:
    samples = [
        {"at": "2026-11-28T10:00:00Z", "cpu_s": 1.0, "rss_bytes": 1 << 30, "node": {"load": 0.5}},
        {"at": "2026-11-28T10:00:02Z", "cpu_s": 4.0, "rss_bytes": 2 << 30},
        {"at": "2026-11-28T10:00:02Z", "cpu_s": 4.0},
    ]
    found = usage.charts(samples)
    assert found["job: cores busy"] == {"cores": [(2.0, 1.5)]}
    assert found["job: memory, GB"] == {"resident": [(0.0, 1.0), (2.0, 2.0)]}
    assert found["node: cores busy"] == {"load": [(0.0, 0.5)]}
    assert "job: disk, MB/s" not in found
    assert usage.charts([]) == {}
    assert usage.host_charts([]) == {}


class Still:
    """A desk that follows nothing."""

    def __init__(self, graph: Graph) -> None:
        self.seen, self.lock = Seen(graph=graph), threading.RLock()
        self.selected: list[str] = []

    def add(self, part: Picture) -> None:
        part.show(self.seen)


def test_page_that_comes_late_is_told_all_states(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = chain("running", "waiting")
    picture = Picture(Still(graph))
    sent: list[dict[str, object]] = []
    monkeypatch.setattr(picture, "send", sent.append)
    picture.show(Seen(graph=with_state(graph, "s0", "failed")))  # told while the page loads its script, and lost to it
    picture.heard({"t": "here"})
    assert sent == [
        {"t": "patch", "rows": [(0, ["failed", "", "", []])]},
        {"t": "patch", "rows": [(0, ["failed", "", "", []]), (1, ["waiting", "", "", []])]},
    ]


def test_pool_says_what_runs_in_it_why_it_waits_and_how_long_it_stays() -> None:
    waiting = {"name": "fast", "executor": "slurm", "state": "waiting", "reason": "Priority", "native_id": "7", "walltime_s": 600, "nodes": [], "running": [], "waiting": 2}
    nodes = [{"node": "n1", "cpus": 4, "used": 3}, {"node": "n2", "cpus": 4, "used": 0}]
    active = {**waiting, "state": "active", "reason": "", "nodes": nodes, "time_left_s": 61, "running": ["r/a", "r/b", "r/c", "r/d"]}
    [first] = pools.rows([waiting], "login")
    assert (first["state"], first["reason"], first["busy"]) == ("waiting", "Priority", 2)
    assert first["cells"] == ["slurm on login", "7", "", "", "00:10:00 once it begins", "2", ""]
    [second] = pools.rows([active], "")
    assert second["cells"] == ["slurm", "7", "n1, n2", "3 of 8", "00:01:01", "2", "r/a, r/b, r/c and 1 more"]
    assert len(second["cells"]) + 2 == len(pools.HEADS)
    later = pools.rows([{**active, "time_left_s": 60}], "")
    assert pools.mark(later) == pools.mark([second])  # seconds alone do not write the notebook anew
    assert pools.mark([first]) != pools.mark([second])


def test_form_of_a_pool_leaves_out_what_is_empty_and_refuses_what_is_no_count() -> None:
    asked = pools.asked({"name": " fast ", "executor": "slurm", "nodes": "2", "cores": "8", "walltime": "01:00:00", "queue": "", "account": "chem"})
    assert asked == {"nodes": 2, "cpus": 8, "walltime": "01:00:00", "account": "chem"}
    with pytest.raises(UsageError, match=r"nodes: '0' is no count"):
        pools.asked({"name": "fast", "nodes": "0"})
    with pytest.raises(UsageError, match="The pool has no name"):
        pools.asked({"name": " "})


def test_queue_has_a_tab_for_each_executor_and_each_host() -> None:
    found = queue.places(["slurm", "local"], ["login"])
    assert [place.label("") for place in found] == ["this machine", "local", "slurm", "login"]
    assert [queue.parse_place(place.key) for place in found] == found
    assert queue.places(["local"], []) == [queue.HERE]
    assert [place.executor for place in queue.places(["slurm"], [])] == ["", "slurm"]  # where no step has been yet
    assert queue.HERE.label("login") == "login"


def test_queue_of_a_batch_system_shows_reason_nodes_and_time_left_and_knows_our_own_jobs() -> None:
    ours = [{"executor": "slurm", "native_id": "7", "run": "r", "step": "md", "point": None}]
    survey = [
        {"executor": "slurm", "native_id": "7", "name": "kale-1", "state": "RUNNING", "nodes": 2, "time_left": "9:59", "starts_at": "2026-11-28T09:00:00Z"},
        {"executor": "slurm", "native_id": "8", "name": "other", "state": "PENDING", "reason": "Priority", "starts_at": "2026-11-28T10:00:00Z"},
    ]
    shown = queue.table(queue.joined(survey, ours), own=["r"])
    assert shown["heads"] == ["where", "job", "nodes", "starts at", "time left"]
    first, second = shown["rows"]
    assert (first["run"], first["label"], first["mine"], first["cells"][2:5], first["look"]) == ("r", "md", True, ["2", "", "9:59"], "running")
    assert (second["run"], second["label"], second["mine"], second["reason"]) == ("", "other", False, "Priority")
