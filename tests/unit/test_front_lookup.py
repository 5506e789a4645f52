"""What the kernel ``kale`` lists: steps of live runs, those that run first; points that wait as one line."""

from pathlib import Path

import pytest

from kale_magic.errors import UnknownStepError, UsageError
from kale_magic.kernels import front_lookup


class FakeClient:
    """A manager with one live run and one that is over."""

    host = ""

    def __init__(self, folder, states):
        self.folder, self.states = folder, states

    def runs(self, folder=None, limit=100):
        return [{"run": "eos-1", "state": "running"}, {"run": "old-1", "state": "completed"}][:limit]

    def status(self, run=None, *, brief=False):
        assert run == "eos-1"
        points = {str(n): {"state": "running" if n == 2 else "queued", "node": "n7"} for n in range(5)}
        steps = {name: {"state": state, "node": "n1", "reason": "waits for `a`"} for name, state in self.states.items()}
        sweep = {"state": "running", "points": points, "counts": {"running": 1, "queued": 4}}
        return {"run": run, "steps": {**steps, "sweep": sweep}}

    def where(self, run, step, point=None):
        if step not in {"sweep", *self.states}:
            raise UnknownStepError("No.", "None.")
        live = self.folder / f"{step}-{point}"
        live.mkdir(exist_ok=True)
        (live / "kernel.json").touch()
        kind = "shell" if step == "sh" else "python"
        return {"run": run, "step": step, "point": point, "state": "running", "folder": "/r", "live": str(live), "kind": kind}


@pytest.fixture
def client(tmp_path: Path):
    return FakeClient(tmp_path, {"later": "waiting", "a": "running", "sh": "running", "done": "completed", "bad": "failed"})


def test_tasks_are_listed_those_that_run_first(client):
    lines = front_lookup.tasks(client)["text/plain"].split("\n")
    assert [line.split()[:3] for line in lines] == [
        ["run", "step", "state"],
        ["eos-1", "a", "running"],
        ["eos-1", "sh", "running"],
        ["eos-1", "sweep[2]", "running"],
        ["eos-1", "later", "waiting"],
        ["eos-1", "sweep", "waiting"],
    ]
    assert "a shell step: it has no kernel" in lines[2]
    assert "waits for `a`" in lines[4]
    assert "4 points" in lines[5]
    assert "n7" in lines[3]


def test_a_cell_for_all_goes_to_what_has_a_kernel(client):
    assert [str(target) for target in front_lookup.running(client)] == ["eos-1/a", "eos-1/sweep[2]"]
    assert [str(target) for target in front_lookup.running(client, "eos-1")] == ["eos-1/a", "eos-1/sweep[2]"]
    with pytest.raises(UsageError, match="No step of old-1 that has a kernel is running"):
        front_lookup.running(client, "old-1")


def test_nothing_to_list_is_one_sentence(client, monkeypatch):
    monkeypatch.setattr(client, "runs", lambda *_: [])
    assert front_lookup.tasks(client)["text/plain"].startswith("No step is running or waiting.")


def test_many_are_cut(tmp_path):
    client = FakeClient(tmp_path, {f"s{n}": "waiting" for n in range(300)})
    assert "... and 202 more" in front_lookup.tasks(client)["text/plain"]
