"""What PBS, LSF and Flux are told, and what is made of what they print: output as LSF's manual shows it, of OpenPBS and Flux as they printed it themselves."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

import pytest

from kale_magic.abc import Environment, Ticket
from kale_magic.config import Settings
from kale_magic.executors import registry
from kale_magic.executors._flux import Flux
from kale_magic.executors._lsf import Lsf
from kale_magic.executors._pbs import Pbs
from kale_magic.executors._slurm_commands import NoAnswer
from kale_magic.executors.queues import QueueCommands, create_flux, create_lsf, create_pbs
from kale_magic.model.environment import OF_BATCH_SYSTEMS, clean_environment
from kale_magic.model.resources import Resources
from kale_magic.model.run import Demand
from kale_proxy.spec import JobSpec

ASKED = Resources(nodes=2, ntasks=4, cpus=3, gpus=2, walltime_s=5400, queue="gpu", account="a1", native=("--x=1",))
QSTAT = """\
Job Id: 123.pbs01
    Job_Name = kale-0123456789abcdef0123456789abcdef
    Job_Owner = ana@login1.site
    job_state = Q
    queue = workq
    comment = Not Running: Insufficient amount of resource: ncpus (R: 16 A: 0\x20
\tT: 128)
    Resource_List.nodect = 2
    Variable_List = PBS_O_HOME=/home/ana,X=a = b,
\tPBS_O_WORKDIR=/home/ana/w

Job Id: 124.pbs01
    Job_Name = run me
    Job_Owner = ana@login1.site
    job_state = R
    queue = workq
    exec_host = node07/0*16+node08/0*16
    comment = Job run at Sat Nov 28 at 10:12 on (node07:ncpus=16)+(node08:ncpus=16)

Job Id: 125.pbs01
    Job_Name = c
    job_state = F
    Exit_status = -29
    comment = Job run at Sat Nov 28 at 10:12 on (node07:ncpus=16) and exceeded resource walltime

Job Id: 126.pbs01
    Job_Name = d
    job_state = F
    Exit_status = 271

Job Id: 127.pbs01
    Job_Name = e
    job_state = H
    Hold_Types = u

Job Id: 128.pbs01
    Job_Name = f
    job_state = F
    Exit_status = 1

Job Id: 129[].pbs01
    Job_Name = g
    job_state = !
"""
BJOBS = {
    "COMMAND": "bjobs", "JOBS": 5,
    "RECORDS": [
        {"JOBID": "101", "STAT": "RUN", "JOB_NAME": "kale-ab", "USER": "ana", "QUEUE": "normal", "EXEC_HOST": "16*hosta:16*hostb", "NEXEC_HOST": "2", "EXIT_REASON": "", "PEND_REASON": ""},
        {"JOBID": "102", "STAT": "PEND", "JOB_NAME": "kale-cd", "USER": "ana", "QUEUE": "normal", "EXEC_HOST": "", "NEXEC_HOST": "", "EXIT_REASON": "", "PEND_REASON": "Job slot limit reached: 3 hosts;"},
        {"JOBID": "103", "STAT": "EXIT", "JOB_NAME": "kale-ef", "USER": "ana", "QUEUE": "normal", "EXEC_HOST": "hosta", "NEXEC_HOST": "1", "EXIT_REASON": "TERM_RUNLIMIT: job killed after reaching LSF run time limit", "PEND_REASON": ""},
        {"JOBID": "104", "STAT": "PSUSP", "JOB_NAME": "kale-01", "USER": "ana", "QUEUE": "normal", "EXEC_HOST": "", "NEXEC_HOST": "", "EXIT_REASON": "", "PEND_REASON": "The job was suspended by the user while pending;"},
        {"JOBID": "105", "ERROR": "Job <105> is not found"},
    ],
}  # fmt: skip
FLUX = """\
ƒ2WnV3|kale-ab|SCHED||16||ana|batch|1|
ƒ2WnV4|kale|cd|SCHED||0||ana|batch|1|
ƒ2WnV5|kale-ef|RUN||16|tioga[12-13,20]|ana||3|
ƒ2WnV6|kale-01|INACTIVE|TIMEOUT|16|tioga12|ana|batch|1|resource allocation expired
ƒ2WnV7|kale-02|INACTIVE|CANCELED|16||ana|batch|1|
ƒ2WnV8|kale-03|INACTIVE|FAILED|16||ana|batch||unsatisfiable request: a|b
"""
RECORDED = Path(__file__).parents[1] / "data" / "queues"  # by OpenPBS and Flux themselves


class Clock:
    def now(self) -> float:
        return 0.0

    monotonic = now


def script(create, asked: Resources, tmp_path, **changes) -> str:
    values = {"run": "r", "step": "fit", "point": None, "attempt": 1, "uuid": "ab", "folder": "/w/a b/fit", "cwd": "/w/a b", "kind": "shell", "code": "1"}
    spec = JobSpec(**{**values, **changes})
    ticket = Ticket("ab", "r", "fit", (1, 1), Demand(1, 0, 0), lambda: spec, lambda: Environment("/opt/py", (), setup=("source x",)), "fit", resources=asked)
    return create(Settings(state_dir=tmp_path, socket_dir=tmp_path), Clock()).script(ticket)


def found(lines) -> list[tuple]:
    return [(line.job_id, line.name, line.state, line.reason, line.node) for line in lines]


def test_they_are_among_the_executors():
    assert {"pbs", "lsf", "flux"} <= set(registry.names())


def test_pbs_is_told_everything_that_a_step_asks_for(tmp_path):
    asked = Resources(nodes=2, ntasks=4, cpus=3, gpus=2, memory_bytes=4 << 30, walltime_s=5400, queue="gpu", account="a1", constraint="cpu_type=milan", native=("#PBS -m n",))
    text = script(create_pbs, asked, tmp_path)
    assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False).stderr == ""
    assert [line for line in text.splitlines() if line.startswith("#PBS")] == [
        "#PBS -l select=2:ncpus=6:mpiprocs=2:ngpus=2:mem=4096mb:cpu_type=milan", "#PBS -l place=scatter", "#PBS -l walltime=1:30:00", "#PBS -q gpu", "#PBS -A a1",
        "#PBS -N kale-ab", "#PBS -j oe", '#PBS -o "/w/a b/fit/job.log"', "#PBS -r n", "#PBS -V", "#PBS -S /bin/bash", "#PBS -m n",
    ]  # fmt: skip
    assert "cd '/w/a b' || exit 1\nexport PBS_O_WORKDIR=$PWD\nfolder='/w/a b/fit'\n" in text
    assert text.endswith("""exec /opt/py -c 'from kale_proxy.brief import main; main()' "$folder/job.json"\n""")
    assert "to be submitted by: qsub job.sh" in text


def test_pbs_refuses_to_be_told_what_it_has_not():
    assert Pbs().lack(Resources(qos="high")).startswith("--qos, which PBS has not")
    assert Pbs().lack(Resources(reservation="R1", queue="q")).startswith("--reservation and --queue")
    assert not Pbs().lack(ASKED)
    assert "#PBS -q R1" in Pbs().directives(Resources(reservation="R1"), "n", "l")


def test_pbs_jobs_are_read():
    jobs = Pbs().read_jobs(QSTAT)
    assert found(jobs) == [
        ("123.pbs01", "kale-0123456789abcdef0123456789abcdef", "PENDING", "Insufficient amount of resource: ncpus (R: 16 A: 0 T: 128)", ""),
        ("124.pbs01", "run me", "RUNNING", "", "node07"),
        ("125.pbs01", "c", "TIMEOUT", "", ""),
        ("126.pbs01", "d", "CANCELLED", "", ""),
        ("127.pbs01", "e", "PENDING", "JobHeldUser", ""),
        ("128.pbs01", "f", "FAILED", "", ""),
        ("129[].pbs01", "g", "UNKNOWN", "", ""),
    ]
    assert (jobs[0].user, jobs[0].partition, jobs[0].nodes) == ("ana", "workq", "2")
    assert jobs[4].is_held
    assert Pbs().read_jobs("") == []
    with pytest.raises(ValueError, match="what is this"):
        Pbs().read_jobs("what is this\n")


def test_a_pbs_server_without_history_is_asked_without():
    pbs = Pbs()
    assert pbs.find("ana") == ["qselect", "-x", "-u", "ana"]
    assert not pbs.learn("qselect: cannot connect to server pbs01")
    assert pbs.learn("qselect: PBS is not configured to maintain job history")
    assert pbs.find("ana") == ["qselect", "-u", "ana"]
    assert pbs.show(["1.a"], "ana") == ["qstat", "-f", "1.a"]


def test_lsf_is_told_everything_that_a_step_asks_for(tmp_path):
    asked = Resources(nodes=2, ntasks=4, cpus=3, gpus=2, memory_bytes=4 << 30, walltime_s=5430, queue="gpu", account="a1", reservation="r#7", constraint="ib", native=("-B",))
    text = script(create_lsf, asked, tmp_path)
    assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False).stderr == ""
    assert [line for line in text.splitlines() if line.startswith("#BSUB")] == [
        "#BSUB -J kale-ab", '#BSUB -o "/w/a b/fit/job.log"', "#BSUB -rn", "#BSUB -n 12", '#BSUB -R "span[ptile=6]"', '#BSUB -gpu "num=2"', "#BSUB -M 4096MB",
        '#BSUB -R "rusage[mem=4096MB]"', '#BSUB -R "select[ib]"', "#BSUB -W 1:31", '#BSUB -q "gpu"', '#BSUB -P "a1"', '#BSUB -U "r#7"', "#BSUB -B",
    ]  # fmt: skip
    assert "to be submitted by: bsub < job.sh" in text
    assert '#BSUB -R "span[hosts=1]"' in script(create_lsf, Resources(cpus=4), tmp_path)


def test_lsf_jobs_are_read():
    jobs = Lsf().read_jobs(json.dumps(BJOBS))
    assert found(jobs) == [
        ("101", "kale-ab", "RUNNING", "", "hosta"),
        ("102", "kale-cd", "PENDING", "Job slot limit reached: 3 hosts", ""),
        ("103", "kale-ef", "TIMEOUT", "", "hosta"),
        ("104", "kale-01", "PENDING", "JobHeldUser", ""),
    ]
    with pytest.raises(ValueError, match="LSF is down"):
        Lsf().read_jobs("LSF is down. Please wait ...")


@pytest.mark.parametrize(
    ("why", "state"),
    [("TERM_MEMLIMIT: job killed after reaching LSF memory usage limit", "OUT_OF_MEMORY"), ("TERM_OWNER: job killed by owner", "CANCELLED"), ("TERM_PREEMPT: job killed after preemption", "PREEMPTED"), ("TERM_UNKNOWN: LSF cannot determine a termination reason", "FAILED"), ("", "FAILED")],
)
def test_why_an_lsf_job_ended(why, state):
    record = {**BJOBS["RECORDS"][2], "EXIT_REASON": why}
    assert Lsf().read_jobs(json.dumps({"RECORDS": [record]}))[0].state == state


def test_flux_is_told_everything_that_it_gives_out(tmp_path):
    text = script(create_flux, ASKED, tmp_path, warn_s=60.0)
    assert subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False).stderr == ""
    assert [line for line in text.splitlines() if line.startswith("# flux:")] == [
        "# flux: --job-name=kale-ab", "# flux: '--output=/w/a b/fit/job.log'", "# flux: '--error=/w/a b/fit/job.log'", "# flux: --nslots=4", "# flux: --cores-per-slot=3",
        "# flux: --nodes=2", "# flux: --gpus-per-slot=1", "# flux: --time-limit=5400s", "# flux: --signal=SIGTERM@3s", "# flux: --queue=gpu", "# flux: --bank=a1", "# flux: --x=1",
    ]  # fmt: skip
    assert Flux().lack(Resources(memory_bytes=1 << 30)).startswith("--memory, which Flux does not give out")
    assert Flux().lack(Resources(gpus=1, ntasks=2)).startswith("--gpus that don't share out")


def test_flux_jobs_are_read():
    assert found(Flux().read_jobs(FLUX)) == [
        ("ƒ2WnV3", "kale-ab", "PENDING", "", ""),
        ("ƒ2WnV4", "kale|cd", "PENDING", "JobHeldUser", ""),
        ("ƒ2WnV5", "kale-ef", "RUNNING", "", "tioga12"),
        ("ƒ2WnV6", "kale-01", "TIMEOUT", "", "tioga12"),
        ("ƒ2WnV7", "kale-02", "CANCELLED", "", ""),
        ("ƒ2WnV8", "kale-03", "FAILED", "unsatisfiable request: a|b", ""),
    ]
    with pytest.raises(ValueError, match="odd"):
        Flux().read_jobs("odd\n")


def test_what_openpbs_prints_of_jobs_that_wait_is_read():
    jobs = Pbs().read_jobs((RECORDED / "openpbs-waiting.txt").read_text())
    assert found(jobs) == [
        ("16.login", "full", "RUNNING", "", "node1"),
        ("17.login", "kale-0123456789abcdef0123456789abcdef", "PENDING", "Not enough free nodes available", ""),
        ("18.login", "never", "PENDING", "Can Never Run: Insufficient amount of resource: ncpus (R: 512 A: 16 T: 16)", ""),
        ("19.login", "held", "PENDING", "JobHeldUser", ""),
        ("20.login", "gone", "CANCELLED", "", ""),
    ]
    assert {job.user for job in jobs} == {"ada"}


def test_what_openpbs_prints_of_jobs_that_have_ended_is_read():
    jobs = Pbs().read_jobs((RECORDED / "openpbs-ended.txt").read_text())
    states = {job.name: job.state for job in jobs}
    assert states == {
        "full": "CANCELLED", "kale-0123456789abcdef0123456789abcdef": "COMPLETED", "never": "CANCELLED", "held": "CANCELLED", "gone": "CANCELLED",
        "failed": "FAILED", "killed": "CANCELLED", "timeout": "TIMEOUT",
    }  # fmt: skip


def test_a_job_that_pbs_started_again_is_to_be_run_again():
    block = "Job Id: 29.login\n    Job_Name = a\n    job_state = F\n    run_count = {}\n    Exit_status = {}\n    comment = Job run at Sat Nov 28 at 18:14 on (node1:ncpus=1) and failed\n"
    for count, code, state in (("1", "1", "FAILED"), ("2", "1", "RERUN"), ("2", "0", "COMPLETED"), ("1", "-4", "NODE_FAIL"), ("2", "-29", "TIMEOUT")):
        assert Pbs().read_jobs(block.format(count, code))[0].state == state


def said(name: str) -> dict[str, list[tuple[str, int]]]:
    """What a system's programs were recorded to say: command -> outputs and exit codes."""
    told: dict[str, list[tuple[str, int]]] = {}
    for block in (RECORDED / name).read_text().split("\n$ ")[1:]:
        command, _, rest = block.partition("\n")
        out, _, code = ("\n" + rest).rpartition("\nexit ")
        told.setdefault(command, []).append((out.strip(), int(code.split()[0])))
    return told


@pytest.mark.parametrize(
    ("dialect", "kind", "command"),
    [
        (Pbs(), "over", "qdel 999999"), (Pbs(), "over", "qdel 20.login"), (Pbs(), "over", "qhold 20.login"), (Pbs(), "over", "qsig -s SIGURG 20.login"),
        (Pbs(), "none", "qstat -f 999999"), (Pbs(), "none", "qstat -f 20.login"), (Pbs(), "full", "qsub -N b -- /bin/sleep 20"), (Pbs(), "unsure", "qsub -- /bin/true"),
        (Pbs(), "unsure", "qselect -u ada"),
        (Flux(), "over", "flux cancel fzzzz"), (Flux(), "over", "flux cancel ƒ3izcTrP"), (Flux(), "over", "flux job kill --signal=SIGURG ƒ39EApas"),
        (Flux(), "over", "flux job urgency ƒ2wuQJk7 hold"), (Flux(), "full", "flux batch -n1 s.sh"), (Flux(), "unsure", "flux jobs -a"),
    ],
)  # fmt: skip
def test_what_is_made_of_their_complaints(dialect, kind, command):
    complaints = [(out, code) for out, code in said("openpbs-words.txt" if dialect.system == "PBS" else "flux-words.txt")[command] if code]
    assert complaints
    words = getattr(dialect, kind) if command != "flux batch -n1 s.sh" else (*dialect.full, *dialect.unsure)
    assert all(any(word in out.lower() for word in words) for out, _ in complaints)


def test_a_refusal_of_openpbs_is_no_doubt_and_no_limit():
    for command in ("qsub -q nonesuch", "qsub -l walltime=x", "qsub -l nosuch=1", "qsub -N b -l walltime=3600 -- /bin/sleep 20"):
        [(out, code)] = said("openpbs-words.txt")[command]
        assert code
        assert not any(word in out.lower() for word in (*Pbs.unsure, *Pbs.full))


def test_what_flux_prints_is_read():
    ended = said("flux-words.txt")["flux jobs -a --count=0 --no-header --format={id.f58}|{name}|{state}|{result}|{urgency}|{nodelist}|{username}|{queue}|{nnodes}|{exception.note} -A"][1][0]
    jobs = Flux().read_jobs(ended)
    assert {job.name: job.state for job in jobs if job.name != "s.sh"} == {
        "killed": "RUNNING", "timeout": "TIMEOUT", "waits": "COMPLETED", "failed": "FAILED", "full": "CANCELLED", "held|bar": "CANCELLED", "gone": "CANCELLED",
    }  # fmt: skip


def test_a_complaint_with_exit_code_0_is_no_empty_queue(tmp_path, monkeypatch):
    program = tmp_path / "qselect"
    program.write_text("#!/bin/sh\ncase \"$1\" in -x) echo 'qselect: PBS is not configured to maintain job history' >&2;; *) cat %s;; esac\n" % (tmp_path / "ids"))
    program.chmod(0o755)
    stat = tmp_path / "qstat"
    stat.write_text("#!/bin/sh\ncat %s\n" % (RECORDED / "openpbs-waiting.txt"))
    stat.chmod(0o755)
    (tmp_path / "ids").write_text("17.login\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    commands = QueueCommands(Pbs(), {"PATH": f"{tmp_path}:/usr/bin:/bin", "USER": "ada"}, 10.0)
    assert len(asyncio.run(commands.squeue())) == 5
    program.write_text("#!/bin/sh\necho 'qselect: something is odd' >&2\n")
    with pytest.raises(NoAnswer, match="something is odd"):
        asyncio.run(commands.squeue())


def test_what_their_programs_need_reaches_the_manager():
    assert {name for dialect in (Pbs, Lsf, Flux) for name in dialect.carried} <= OF_BATCH_SYSTEMS
    assert not clean_environment({"FLUX_URI": "local:///x", "LSF_ENVDIR": "/lsf"})[0]  # nor a step


@pytest.mark.parametrize(
    ("dialect", "out", "number"),
    [
        (Pbs(), "123.pbs01\n", "123.pbs01"), (Pbs(), "note: x\n7\n", "7"), (Pbs(), "", ""), (Pbs(), "qsub: waiting", ""),
        (Lsf(), "Job <101> is submitted to default queue <normal>.\n", "101"), (Lsf(), "Job <x> y", ""),
        (Flux(), "ƒ2WnV3\n", "ƒ2WnV3"), (Flux(), "f2WnV3\n", "f2WnV3"), (Flux(), "flux-batch: ERROR", ""),
    ],
)  # fmt: skip
def test_the_number_of_a_new_job_is_read(dialect, out, number):
    assert dialect.read_id(out) == number


def test_deeds():
    assert (Pbs().cancel("1.a"), Pbs().signal("1.a", "URG"), Pbs().hold("1.a", is_held=False)) == (["qdel", "1.a"], ["qsig", "-s", "SIGURG", "1.a"], ["qrls", "1.a"])
    assert (Lsf().cancel("1"), Lsf().signal("1", "URG"), Lsf().hold("1", is_held=True)) == (["bkill", "1"], ["bkill", "-s", "URG", "1"], ["bstop", "1"])
    assert Flux().signal("f1", "URG") == ["flux", "job", "kill", "--signal=SIGURG", "f1"]
    assert Flux().hold("f1", is_held=True) == ["flux", "job", "urgency", "f1", "hold"]


def test_lines_of_a_batch_script_count(tmp_path):
    code = "#!/bin/bash\n#PBS -l place=excl\necho hi\n#PBS -q later\n"
    text = script(create_pbs, Resources(), tmp_path, kind="script", code=code)
    assert "#PBS -l place=excl\n" in text
    assert "later" not in text
