"""An attempt is begun once, and a dead beginner is told from a live one."""

from __future__ import annotations

import os
import subprocess

import pytest

from kale_proxy import claim
from kale_proxy.spec import InputSpec, JobSpec, LimitSpec


def make(folder, **fields):
    base = {"run": "r", "step": "s", "point": None, "attempt": 1, "uuid": "u", "folder": str(folder), "cwd": "/", "kind": "python", "code": ""}
    return JobSpec(**{**base, **fields})


def test_second_claim_of_an_attempt_is_refused_and_another_attempt_is_not(tmp_path):
    claim.take(make(tmp_path / "s"))
    with pytest.raises(claim.ClaimTaken, match="attempt 1 was begun before"):
        claim.take(make(tmp_path / "s", uuid="v"))
    claim.take(make(tmp_path / "s", attempt=2))
    assert claim.read(tmp_path / "s", 1)["uuid"] == "u"
    assert claim.read(tmp_path / "s", 3) is None


def test_job_that_is_started_afresh_takes_its_own_claim_over_and_no_other(tmp_path):
    claim.take(make(tmp_path))
    path = tmp_path / "attempt-1.claim"
    path.write_text(path.read_text().replace(f'"pid": {os.getpid()}', '"pid": 1'))
    with pytest.raises(claim.ClaimTaken):
        claim.take(make(tmp_path, uuid="v", restart=1))
    claim.take(make(tmp_path, restart=1))
    assert claim.read(tmp_path, 1)["pid"] == os.getpid()


def test_claim_tells_whether_its_process_lives(tmp_path):
    claim.take(make(tmp_path))
    owner = claim.read(tmp_path, 1)
    assert claim.is_alive(owner)
    assert not claim.is_alive({**owner, "pid_start": owner["pid_start"] + 1})
    assert not claim.is_alive({**owner, "boot": "another"})
    with subprocess.Popen(["true"]) as child:
        pass
    assert not claim.is_alive({**owner, "pid": child.pid})
    assert not claim.is_alive({})


def test_half_written_claim_counts_as_begun(tmp_path):
    (tmp_path / "attempt-1.claim").write_text('{"uu')
    assert claim.read(tmp_path, 1) == {}


def test_pid_of_zombie_is_not_alive():
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert claim.pid_start(child) is None
    os.waitpid(child, 0)


def test_specification_round_trips_exactly(tmp_path):
    item = InputSpec(name="x", producer="p", output="o", folders=("/a", "/b"), gather=True, gather_params=("{'m': 1}",))
    spec = make(tmp_path, params={"t": "(1, 0.1)"}, inputs=(item,), outputs=("y",), limits=LimitSpec(walltime_s=3, gpus=(1, 2)), point=4)
    assert JobSpec.from_json(spec.to_json()) == spec
    assert spec.parameters() == {"t": (1, 0.1)}


def test_specification_of_another_version_or_with_unknown_fields_is_refused(tmp_path):
    text = make(tmp_path).to_json()
    with pytest.raises(ValueError, match="version 2"):
        JobSpec.from_json(text.replace('"version": 1', '"version": 2'))
    with pytest.raises(ValueError, match="colour"):
        JobSpec.from_json(text.replace('"version": 1', '"version": 1, "colour": 1'))
