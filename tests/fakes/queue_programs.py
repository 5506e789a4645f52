"""Programs of PBS Professional, LSF and Flux for tests: they run scripts here, and print what OpenPBS 23.06.06 and flux-core 0.88.0
print (``tests/data/queues``), and what LSF's manual shows.

``install`` puts them on a path; each is this file under another name. State is in the folder FAKE_QUEUE: one folder per job.
A file ``down`` there makes every program fail as if its server were away; ``full`` refuses new jobs; ``slots`` is how many run at once.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

PROGRAMS = ("qsub", "qselect", "qstat", "qdel", "qhold", "qrls", "qsig", "bsub", "bjobs", "bkill", "bstop", "bresume", "flux")
_DOWN = {
    "q": "Connection refused\n{0}: cannot connect to server pbs01 (errno=15010)",
    "b": "LSF is down. Please wait ...",
    "f": "flux-jobs: ERROR: Unable to connect to Flux: broker socket /run/flux/local was not found",
}
_FULL = {
    "q": "qsub: would exceed queue generic's per-user limit",
    "b": "User <root>: Pending job threshold reached. Retrying in 60 seconds...",
    "f": "flux-batch: ERROR: job submission is disabled: disabled by administrator",
}


def install(folder: Path) -> Path:
    """Put the programs into ``folder``; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in PROGRAMS:
        path = folder / name
        path.write_text(f"#!{sys.executable}\nimport sys\nsys.argv[0] = {name!r}\nexec(compile(open({__file__!r}).read(), {__file__!r}, 'exec'))\n")
        path.chmod(0o755)
    return folder


class Queue:
    """The jobs, read and written at each call of a program."""

    def __init__(self) -> None:
        self.folder = Path(os.environ["FAKE_QUEUE"])
        self.jobs = sorted((Job(path) for path in self.folder.glob("job-*") if (path / "job.json").exists()), key=lambda job: job.number)
        slots = int((self.folder / "slots").read_text()) if (self.folder / "slots").exists() else 2
        running = sum(job.state == "R" for job in self.jobs)
        for job in self.jobs:
            if job.state == "Q" and running < slots and job.start():
                running += 1

    def add(self, system: str, text: str, path: str) -> Job:
        number = len(list(self.folder.glob("job-*"))) + 101
        folder = self.folder / f"job-{number}"
        folder.mkdir()
        (folder / "script").write_text(text)
        words = {"number": number, "system": system, "name": _option(text, r"-N (\S+)", r"-J (\S+)", r"--job-name=(\S+)"), "path": path, "log": _option(text, r'-o "([^"]+)"', r"--output=([^\s']+)")}
        (folder / "new").write_text(json.dumps(words))
        (folder / "new").rename(folder / "job.json")
        return Job(folder)

    def find(self, native_id: str) -> Job:
        for job in self.jobs:
            if native_id in {str(job.number), job.native_id}:
                return job
        _fail({"q": f"{sys.argv[0]}: Unknown Job Id {native_id}", "b": f"Job <{native_id}>: No matching job found", "f": f"flux-cancel: ERROR: {native_id}: unknown job id"}[sys.argv[0][0]])
        raise AssertionError


class Job:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.words = json.loads((folder / "job.json").read_text())
        self.number, self.name = self.words["number"], self.words["name"]
        self.native_id = {"q": f"{self.number}.pbs01", "b": str(self.number), "f": f"f{self.number}".replace("0", "z")}[self.words["system"]]

    @property
    def state(self) -> str:
        """Q, H, R or F."""
        if (self.folder / "code").exists() or (self.folder / "cancelled").exists():
            return "F"
        if (self.folder / "pid").exists():
            return "R"
        return "H" if (self.folder / "held").exists() else "Q"

    @property
    def code(self) -> int:
        path = self.folder / "code"
        return int(path.read_text()) if path.exists() else 271

    def start(self) -> bool:
        try:
            os.close(os.open(self.folder / "pid", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        script, code = self.folder / "script", self.folder / "code"
        with open(self.words["log"] or os.devnull, "ab") as log:
            shell = subprocess.Popen(
                ["bash", "-c", 'bash "$1"; echo $? > "$2.new"; mv "$2.new" "$2"', "run", str(script), str(code)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
                env={name: value for name, value in os.environ.items() if name != "FAKE_QUEUE"},
            )  # fmt: skip
        (self.folder / "pid").write_text(str(shell.pid))
        return True

    def kill(self, signum: int) -> None:
        """Signal the script's process, which is the child of the shell that waits for it."""
        pid = (self.folder / "pid").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split() if pid and Path(f"/proc/{pid}").exists() else []
        for child in children:
            os.kill(int(child), signum)

    def cancel(self) -> None:
        if self.state == "R":
            self.kill(signal.SIGTERM)
        elif self.state != "F":
            (self.folder / "cancelled").touch()


def _option(text: str, *patterns: str) -> str:
    return next((found[1] for pattern in patterns if (found := re.search(pattern, text))), "")


def _fail(words: str, code: int = 1) -> None:
    sys.stderr.write(words + "\n")
    sys.exit(code)


def _qstat(job: Job) -> str:
    lines = [f"Job Id: {job.native_id}", f"    Job_Name = {job.name}", "    Job_Owner = root@login1.site", f"    job_state = {job.state}", "    queue = workq", "    server = pbs01"]
    if job.state == "R":
        lines += ["    exec_host = node07/0*2", "    comment = Job run at Sat Nov 28 at 10:12 on (node07:ncpus=2)"]
    elif job.state == "Q":
        lines += ["    comment = Not Running: Not enough free nodes available"]
    elif job.state == "H":
        lines += ["    Hold_Types = u"]
    else:
        lines += [f"    Exit_status = {job.code}", "    comment = Job run at Sat Nov 28 at 10:12 on (node07:ncpus=2) and finished"]
    return "\n".join([*lines, "    Resource_List.nodect = 1", "    Resource_List.select = 1:ncpus=2", ""]).replace("\n\t", "\n\t")


def _bjobs(job: Job) -> dict[str, str]:
    stat = {"Q": "PEND", "H": "PSUSP", "R": "RUN", "F": "EXIT" if job.code else "DONE"}[job.state]
    why = "TERM_OWNER: job killed by owner" if job.code == 271 and stat == "EXIT" else ""
    pending = "Job slot limit reached;" if stat == "PEND" else ""
    return {
        "JOBID": str(job.number), "STAT": stat, "JOB_NAME": job.name, "USER": "root", "QUEUE": "normal",
        "EXEC_HOST": "2*node07" if stat == "RUN" else "", "NEXEC_HOST": "1", "EXIT_REASON": why, "PEND_REASON": pending,
    }  # fmt: skip


def _flux_line(job: Job) -> str:
    state = {"Q": "SCHED", "H": "SCHED", "R": "RUN", "F": "INACTIVE"}[job.state]
    result = "" if state != "INACTIVE" else "COMPLETED" if not job.code else "CANCELED" if job.code == 271 else "FAILED"
    return f"{job.native_id}|{job.name}|{state}|{result}|{0 if job.state == 'H' else 16}|{'node[07-08]' if state == 'RUN' else ''}|root|batch|1|"


def main() -> None:
    name, words = sys.argv[0], sys.argv[1:]
    folder = Path(os.environ["FAKE_QUEUE"])
    with (folder / "calls").open("a") as calls:
        calls.write(" ".join([name, *words]) + "\n")
    if (folder / "down").exists():
        _fail(_DOWN[name[0]].format(name), 255)
    queue = Queue()
    if name == "flux":
        name = " ".join(["flux", words.pop(0)])
        if name == "flux job":
            name = " ".join([name, words.pop(0)])
    if name in {"qsub", "bsub", "flux batch"}:
        if (folder / "full").exists():
            _fail(_FULL[name[0]])
        text = sys.stdin.read() if name == "bsub" else Path(words[-1]).read_text()
        if "nonesuch" in text:
            _fail({"q": "qsub: Unknown queue", "b": "nonesuch: No such queue. Job not submitted.", "f": "flux-batch: ERROR: 'nonesuch' is not a valid queue"}[name[0]])
        job = queue.add(name[0], text, words[-1] if words else "")
        print({"q": job.native_id, "b": f"Job <{job.number}> is submitted to default queue <normal>.", "f": job.native_id}[name[0]])
        if (folder / "silent").exists():  # the submission is taken, and its answer is lost
            time.sleep(60)
        Queue()
    elif name == "qselect":
        if (folder / "no-history").exists() and "-x" in words:
            _fail("qselect: PBS is not configured to maintain job history", 0)  # with exit code 0
        print("\n".join(job.native_id for job in queue.jobs if "-x" in words or job.state != "F"))
    elif name == "qstat":
        print("\n".join(_qstat(queue.find(word)) for word in words if not word.startswith("-")))
    elif name == "bjobs":
        records = [_bjobs(job) for job in queue.jobs]
        if not records:
            _fail("No job found", 255)
        print(json.dumps({"COMMAND": "bjobs", "JOBS": len(records), "RECORDS": records}, indent=2))
    elif name == "flux jobs":
        print("\n".join(map(_flux_line, queue.jobs)))
    elif name in {"qdel", "flux cancel"} or (name == "bkill" and words[0] != "-s"):
        queue.find(words[-1]).cancel()
    elif name in {"qhold", "bstop", "qrls", "bresume", "flux job urgency"}:
        held = queue.find(words[0] if name.startswith("flux") else words[-1]).folder / "held"
        if name in {"qhold", "bstop"} or words[-1] == "hold":
            held.touch()
        else:
            held.unlink(missing_ok=True)
    elif name in {"qsig", "bkill", "flux job kill"}:
        word = next(word for word in words if re.fullmatch(r"(?:--signal=)?(?:SIG)?[A-Z]+", word))
        queue.find(words[-1]).kill(signal.Signals["SIG" + word.removeprefix("--signal=").removeprefix("SIG")])
    else:
        _fail(f"{name}: not faked")


if __name__ == "__main__":
    main()
