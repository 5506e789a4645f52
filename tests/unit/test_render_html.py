"""A run as HTML: rows, tracebacks, colours, and nothing of the user's unescaped."""

from html.parser import HTMLParser

import pytest

from kale_magic.render.ansi import ansi_to_html
from kale_magic.render.html import run_html

NASTY = "<img src=x onerror=alert(1)>\"'&"


class Reader(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.rows, self.words = [], [], []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])

    def handle_data(self, data):
        self.words.append(data.strip())
        if self.rows:
            self.rows[-1].append(data)


def status(**steps):
    return {
        "run": "eos-1",
        "state": "failed",
        "executor": "local",
        "submitted_at": "2026-11-22T17:00:00Z",
        "ended_at": "2026-11-22T17:00:12Z",
        "steps": steps,
    }


def test_heading_and_one_row_per_step():
    page = Reader(
        run_html(
            status(
                relax={"state": "completed", "node": "n1"},
                fit={"state": "failed", "reason": "NameError: x", "attempt": 2},
            )
        )
    )
    assert {"eos-1", "failed", "local · 12 s"} <= set(page.words)
    rows = {row[0]: row for row in page.rows if row}
    assert rows["relax"][1:] == ["completed", "n1"]
    assert rows["fit"][1:] == ["failed", "attempt 2: NameError: x"]
    assert ("div", "eos-1", "failed") in [
        (tag, attrs.get("data-kale-run"), attrs.get("data-kale-state")) for tag, attrs in page.tags
    ]


def test_traceback_of_the_failing_point_is_shown_in_colour_and_open():
    error = {"ename": "NameError", "evalue": "x", "traceback": ["\x1b[31mNameError\x1b[39m: <x>"]}
    page = Reader(run_html(status(curve={"state": "failed", "points": {"0": {"state": "failed", "error": error}}})))
    assert ("span", {"class": "ansi-red-fg"}) in page.tags
    assert "curve[0]" in page.words
    assert "NameError" in page.words
    assert ("details", {"open": None}) in page.tags


def test_many_tracebacks_are_counted_not_all_shown():
    error = {"traceback": ["boom"]}
    points = {str(n): {"state": "failed", "error": error} for n in range(30)}
    page = Reader(run_html(status(curve={"state": "failed", "points": points})))
    assert sum(tag == "details" for tag, _ in page.tags) == 3
    assert "… and 27 more tracebacks" in page.words


def test_nothing_of_the_user_is_unescaped():
    error = {"ename": NASTY, "evalue": NASTY, "traceback": [NASTY, f"\x1b[31m{NASTY}"]}
    everything = status(**{NASTY: {"state": NASTY, "reason": NASTY, "node": NASTY, "error": error}}) | {
        "run": NASTY,
        "state": NASTY,
        "executor": NASTY,
    }
    source = run_html(everything, note=NASTY)
    page = Reader(source)
    assert "img" not in {tag for tag, _ in page.tags}
    assert not [attrs for _, attrs in page.tags if "onerror" in attrs]
    assert "".join(page.words).count(NASTY) >= 6


def test_table_of_a_large_run_is_cut_and_keeps_what_needs_a_person():
    steps = {f"s{n}": {"state": "completed"} for n in range(500)} | {"bad": {"state": "failed"}}
    page = Reader(run_html(status(**steps)))
    names = [row[0] for row in page.rows if row]
    assert "bad" in names
    assert len(names) == 62
    assert "… and 441 more steps" in names


def test_picture_that_is_too_large_to_be_sent_often_is_left_out():
    steps = {f"s{n}": {"state": "completed", "parents": [f"s{n // 2}", f"s{n // 3}"]} for n in range(1000)}
    source = run_html(status(**steps))
    assert len(source) < 50_000
    assert "too large to be drawn here" in source


def test_no_script_and_nothing_from_elsewhere():
    source = run_html(status(a={"state": "completed"}))
    assert "<script" not in source
    assert "src=" not in source


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("plain <b>", "plain &lt;b&gt;"),
        ("\x1b[0;31mred\x1b[0m x", '<span class="ansi-red-fg">red</span> x'),
        (
            "\x1b[1;32mg\x1b[22mh",
            '<span class="ansi-bold ansi-green-fg" style="font-weight:bold">g</span><span class="ansi-green-fg">h</span>',
        ),
        ("\x1b[94mb", '<span class="ansi-blue-intense-fg">b</span>'),
        ("\x1b[43my\x1b[49mz", '<span class="ansi-yellow-bg">y</span>z'),
        ("\x1b[38;5;28mq", '<span style="color:color-mix(in srgb,#008700 70%,currentColor)">q</span>'),
        ("\x1b[38;5;9mq", '<span class="ansi-red-intense-fg">q</span>'),
        ("\x1b[48;2;1;2;300mq", '<span style="background-color:#0102ff">q</span>'),
        ("\x1b[38;5;250mq", '<span style="color:color-mix(in srgb,#bcbcbc 70%,currentColor)">q</span>'),
        ("a\x1b[2Kb\x1b]0;title\x07c\x1b[Ad", "abcd"),
        ("\x1b[;mx\x1b[99mq\x1b[38mz", "xqz"),
        ("cut \x1b", "cut "),
    ],
)
def test_ansi_sequences_become_spans_or_nothing(source, expected):
    assert ansi_to_html(source) == expected
