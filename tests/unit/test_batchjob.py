"""Which batch job a process is in, and when it is certain that one is over."""

import subprocess

import pytest

from kale_magic import _batchjob
from kale_magic._batchjob import BatchJob, current, is_over

JOB = BatchJob("slurm", "42", "nb")


def test_job_is_known_by_its_variables_or_by_its_cgroup(tmp_path):
    none = tmp_path / "none"
    assert current({}, none) is None
    assert current({"SLURM_JOB_ID": "42", "SLURM_JOB_NAME": "nb"}, none) == JOB
    assert str(current({"PBS_JOBID": "7.head"}, none)) == "PBS job 7.head"
    assert str(current({"FLUX_ENCLOSING_ID": "ƒ2Wn"}, none)) == "Flux job ƒ2Wn"
    cgroup = tmp_path / "cgroup"
    cgroup.write_text("0::/system.slice/slurmstepd.scope/job_42/step_batch/user/task_0\n")
    assert current({}, cgroup) == BatchJob("slurm", "42")
    cgroup.write_text("0::/user.slice/job_42/x\n")
    assert current({}, cgroup) is None


@pytest.mark.parametrize("found", [None, "x", {"system": "slurm"}, {"system": "slurm", "id": 4, "name": ""}])
def test_record_that_tells_of_no_job(found):
    assert BatchJob.from_words(found) is None
    assert BatchJob.from_words(JOB.to_words()) == JOB


@pytest.mark.parametrize(
    ("code", "out", "err", "over"),
    [
        (0, "RUNNING|nb\n", "", False),
        (0, "COMPLETING|nb\n", "", False),
        (0, "TIMEOUT|nb\n", "", True),
        (0, "", "", True),
        (0, "RUNNING|another\n", "", True),  # Slurm gave the number to another job
        (1, "", "slurm_load_jobs error: Invalid job id specified\n", True),
        (1, "", "slurm_load_jobs error: Unable to contact slurm controller\n", False),
    ],
)
def test_job_is_over_only_when_slurm_says_so(monkeypatch, code, out, err, over):
    asked = []

    def run(command, *, env, **_):
        asked.append((command, env))
        return subprocess.CompletedProcess(command, code, out, err)

    monkeypatch.setattr(_batchjob.subprocess, "run", run)
    assert is_over(JOB, {"SLURM_CONF": "/c", "SLURM_JOB_ID": "9", "SQUEUE_USERS": "x", "PATH": "/bin"}) is over
    [(command, env)] = asked
    assert "--jobs=42" in command
    assert env == {"SLURM_CONF": "/c", "PATH": "/bin", "LC_ALL": "C"}


@pytest.mark.parametrize(
    ("code", "err", "over"),
    [
        (0, "", False),
        (153, "qstat: Unknown Job Id 7.head\n", True),
        (35, "qstat: 7.head Job has finished, use -x or -H to obtain historical job information\n", True),
        (255, "Connection refused\nqstat: cannot connect to server head (errno=15010)\n", False),
    ],
)
def test_a_job_of_pbs_is_over_only_when_openpbs_says_so(monkeypatch, code, err, over):
    monkeypatch.setattr(_batchjob.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, code, "", err))
    assert is_over(BatchJob("pbs", "7.head"), {"PATH": "/bin"}) is over


def test_what_can_not_be_asked_is_not_over(monkeypatch):
    assert not is_over(None)
    assert not is_over(BatchJob("lsf", "7"))
    assert not is_over(BatchJob("slurm", "--all"))

    def missing(*_, **__):
        raise FileNotFoundError("squeue")

    monkeypatch.setattr(_batchjob.subprocess, "run", missing)
    assert not is_over(JOB)
