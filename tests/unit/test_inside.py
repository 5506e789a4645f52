"""What a step's code may call: cheap to call, harmless outside of Kale, and right in what it writes."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from kale_proxy import inside


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be a step whose folder this is."""
    monkeypatch.setenv("KALE_STEP_FOLDER", str(tmp_path))
    monkeypatch.setenv("KALE_LIVE", str(tmp_path))
    monkeypatch.setattr(inside, "_writer", None)
    (tmp_path / "job.json").write_text(json.dumps({"params": {"n": "10", "name": "'x'", "bad": "nan"}}))
    return tmp_path


def written(folder: Path) -> list[dict]:
    inside._flush_at_end()
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_metrics_are_lines_with_their_time_and_step(folder: Path) -> None:
    inside.metric(step=3, loss=0.5, name="warm")
    inside.metric(loss=float("inf"))
    first, second = written(folder)
    assert first.pop("at").endswith("Z")
    assert first == {"step": 3, "loss": 0.5, "name": "warm"}
    assert second["loss"] is None
    assert (folder / "metrics.jsonl").stat().st_mode & 0o077 == 0


def test_a_metric_of_any_type_never_raises(folder: Path) -> None:
    import numpy as np

    class Odd:
        def __float__(self) -> float:
            raise RuntimeError

        def __str__(self) -> str:
            return "odd"

    inside.metric(step=np.int64(2), a=np.float32(0.5), b=np.arange(3), c=Odd(), d=True, e=None)
    (line,) = written(folder)
    del line["at"]
    assert line == {"step": 2, "a": 0.5, "b": "[0 1 2]", "c": "odd", "d": True, "e": None}


def test_progress_keeps_the_last_only(folder: Path) -> None:
    for i in range(1000):
        inside.progress(i + 1, 1000)
    assert written(folder)[-1]["progress"] == 1000
    assert len(written(folder)) < 10


def test_metrics_come_out_by_themselves(folder: Path, until) -> None:
    inside.metric(a=1)
    until(lambda: (folder / "metrics.jsonl").exists(), "the file", timeout=5)


def test_parameters_are_those_declared_and_then_those_changed(folder: Path) -> None:
    params = inside.Params()
    assert params.n == 10
    assert params["name"] == "x"
    assert params.bad != params.bad
    assert params.get("nothing", 5) == 5
    assert set(params) == {"n", "name", "bad"}
    with pytest.raises(AttributeError, match="no parameter 'm'; there are: n, name, bad"):
        _ = params.m
    inside.record_change(str(folder), {"n": (10, 11)}, "me@here")
    params._next_look = 0.0
    assert params.n == 11
    event = json.loads((folder / "events.jsonl").read_text())
    assert (event["event"], event["by"], event["changes"]) == ("params", "me@here", {"n": ["10", "11"]})


def test_a_checkpoint_replaces_the_one_before_whole(folder: Path) -> None:
    assert inside.checkpoint.load(i=0) == {"i": 0}
    inside.checkpoint(i=1, xs=[1.5])
    inside.checkpoint(i=2, xs=[2.5])
    assert inside.checkpoint.load(i=0) == {"i": 2, "xs": [2.5]}
    assert sorted(path.name for path in (folder / "checkpoint").iterdir()) == ["2", "current.json"]


def test_a_checkpoint_that_can_not_be_saved_leaves_the_one_before(folder: Path) -> None:
    from kale_proxy.values import ValueFileError

    inside.checkpoint(i=1)
    with pytest.raises(ValueFileError):
        inside.checkpoint(i=2, bad=(n for n in range(3)))
    assert inside.checkpoint.load() == {"i": 1}


def test_a_step_run_again_finds_the_checkpoint_of_the_earlier_run(folder: Path, tmp_path_factory, monkeypatch) -> None:
    inside.checkpoint(i=7)
    monkeypatch.setenv("KALE_STEP_FOLDER", str(tmp_path_factory.mktemp("new")))
    monkeypatch.setenv("KALE_CHECKPOINT", str(folder))
    assert inside.checkpoint.load() == {"i": 7}


def test_a_rank_finds_its_own_checkpoint_of_the_attempt_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in ("0", "1"):
        monkeypatch.setenv("KALE_STEP_FOLDER", str(tmp_path / "attempts" / "1" / "ranks" / rank))
        os.makedirs(os.environ["KALE_STEP_FOLDER"])
        inside.checkpoint(i=rank)
    monkeypatch.setenv("KALE_STEP_FOLDER", str(tmp_path / "ranks" / "1"))
    assert inside.checkpoint.load() == {"i": "1"}


def test_what_is_kept_is_written_only_when_the_end_is_near(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeping = inside.Checkpoint()
    assert not keeping.keep(i=1)
    assert not (folder / "checkpoint").exists()
    (folder / "ending.json").write_text("{}")
    time.sleep(0.15)
    assert keeping.keep(i=2)
    assert keeping.keep(i=3)  # too soon to be written again
    assert keeping.load() == {"i": 2}
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_outside_of_kale_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KALE_STEP_FOLDER", raising=False)
    monkeypatch.setattr(inside, "_writer", None)
    monkeypatch.chdir(tmp_path)
    inside.metric(a=1)
    inside.progress(1, 2)
    inside.checkpoint(a=1)
    assert not inside.checkpoint.keep(a=1)
    assert inside.checkpoint.load(a=2) == {"a": 2}
    assert inside.Params().get("n", 3) == 3
    assert os.listdir(tmp_path) == []


def test_outside_of_kale_a_parameter_is_the_notebooks_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KALE_STEP_FOLDER", raising=False)
    monkeypatch.setattr("__main__.lr", 0.1, raising=False)
    assert inside.Params().lr == 0.1


def test_time_left_is_that_of_the_walltime_and_unknown_without_one(monkeypatch):
    from kale_proxy.inside import time_left

    monkeypatch.delenv("KALE_ENDS_AT", raising=False)
    assert time_left() is None
    monkeypatch.setenv("KALE_ENDS_AT", str(time.time() + 100))
    assert 98 < time_left() <= 100
