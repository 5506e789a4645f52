"""A plain shell step, run and recorded with little more than ``os`` loaded, as :mod:`kale_proxy.shellrun` does it.

Plain is a step that takes no values but simple parameters, gives none, names no files, and does not ask. How it ends is written here if it completed and
printed little; any other end is left to :mod:`kale_proxy.shellrun`, which is loaded then. The two leave the same files:
``tests/integration/test_brief.py`` compares them.
"""

from __future__ import annotations

import _json
import _signal  # type: ignore[import-not-found]
import os
import sys
import time

from kale_proxy import brief

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_MAX_LOG = 1 << 16  # what more it printed is for the worker proper
RESULT_FIELDS = {
    "uuid", "attempt", "state", "exit_code", "signal", "reason", "error", "outputs", "files", "started_at", "ended_at", "node", "pid", "cpu_s",
    "peak_rss_bytes",
}  # fmt: skip  # of kale_proxy.spec.JobResult
_BROKEN = 98  # kale_proxy.attempt.BROKEN
_NOTHING: tuple[tuple[str, object], ...] = (
    ("kind", "shell"), ("inputs", []), ("outputs", []), ("formats", {}), ("files_in", []),
    ("files_out", []), ("is_gate", False), ("restart", 0), ("listens", False), ("idle_s", None),
)  # fmt: skip


def run(text: str, spec: dict[str, Any], live: str) -> int | None:
    """Run the step in this process's child; return the exit code, or None, and nothing has been done, if it is not plain."""
    params = plain_params(spec)
    if params is None or not is_plain(spec):
        return None
    folder = spec["folder"]
    environment = _environment(spec, params)
    program = _which("bash", environment)
    if program is None:
        return None
    try:
        os.chdir(spec["cwd"])
        os.makedirs(folder, 0o700, exist_ok=True)
        claim = os.open(f"{folder}/attempt-{spec['attempt']}.claim", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError:
        return None  # it was begun before, or can't be written: in the words of the worker proper
    host, started_at = os.uname().nodename, _now()
    with open(claim, "wb") as stream:
        stream.write(dump(_owner(spec, host)).encode())
    try:
        status, usage = _begun(program, spec, live, environment, host)
        printed = _printed(folder) if status == 0 else None
        if printed is not None:
            _complete(spec, started_at, host, printed, usage)
            return 0
    except OSError:
        import traceback

        traceback.print_exc()  # to raw.log
        return _BROKEN
    from kale_proxy.children import conclude_shell

    return conclude_shell(text, os.waitstatus_to_exitcode(status), started_at, live)


def _begun(program: str, spec: dict[str, Any], live: str, environment: dict[str, str], host: str) -> tuple[int, Any]:
    folder = spec["folder"]
    _event(spec, "running", pid=os.getpid(), live=live)
    if spec["keys"]:
        found = {
            "live": live, "key": "", "host": host, "node": os.environ.get("SLURMD_NODENAME", host),
            "job_id": os.environ.get("SLURM_JOB_ID", ""), "pid": os.getpid(), "python": sys.executable, "at": _now(),
        }  # fmt: skip
        try:  # noqa: SIM105 - contextlib would be loaded for it
            _replace(f"{spec['keys']}/{spec['uuid']}.json", dump(found).encode())
        except OSError:
            pass  # without it the step can't be looked at from afar, but it runs
    _replace(f"{folder}/step.sh", spec["code"].encode())
    os.makedirs(f"{folder}/outputs", 0o700, exist_ok=True)
    return _bash(program, spec, environment)


def is_plain(spec: dict[str, Any]) -> bool:
    """Whether the step is one that is run here; what asks says ``read``."""
    return all(spec[name] == value for name, value in _NOTHING) and "read" not in spec["code"] and all(map(_has_completed, spec["parents"]))


def _has_completed(parent: dict[str, Any]) -> bool:
    """Whether a parent's results are there and say so; what else they may be is for :mod:`kale_proxy.parents` to judge."""
    folder, count = parent["folder"], parent["point_count"]
    for one in [folder] if count is None else [f"{folder}/{point}" for point in range(count)]:
        try:
            with open(f"{one}/result.json", encoding="utf-8") as stream:
                if brief.read_json(stream.read())["state"] != "completed":
                    return False
        except (OSError, ValueError, StopIteration, KeyError):
            return False
    return True


def plain_params(spec: dict[str, Any]) -> dict[str, str] | None:
    """Return the parameters as the environment has them; None if one is more than a number, a word or None."""
    found = {}
    for name, text in spec["params"].items():
        if text in _WORDS:
            found[name] = _WORDS[text]
        elif text[:1] in {"'", '"'} and text[0] == text[-1] and not any(sign in text[1:-1] for sign in ("\\", text[0], "\n")):
            found[name] = text[1:-1]
        elif text.isascii() and text.removeprefix("-").isdecimal() and str(int(text)) == text:
            found[name] = text
        elif not _is_float(text):
            return None
        else:
            found[name] = text
    return found


_WORDS = {"True": "1", "False": "0", "None": ""}


def _is_float(text: str) -> bool:
    try:
        return repr(float(text)) == text and text not in {"inf", "-inf"}
    except ValueError:
        return False


def dump(value: Any) -> str:
    """Return JSON as ``json.dumps`` does, of what a step's files have."""
    if isinstance(value, str):
        return _json.encode_basestring_ascii(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "{" + ", ".join(f"{dump(str(key))}: {dump(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(dump, value)) + "]"
    return repr(value)


def _now() -> str:
    moment = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(moment))}.{int(moment % 1 * 1000):03d}Z"


def _owner(spec: dict[str, Any], host: str) -> dict[str, object]:
    """Return what a claim says, see :mod:`kale_proxy.claim`."""
    with open("/proc/self/stat", "rb") as stream:
        start = int(stream.read().rpartition(b")")[2].split()[19])
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as words:
            boot = words.read().strip()
    except OSError:
        boot = ""
    return {"uuid": spec["uuid"], "pid": os.getpid(), "pid_start": start, "boot": boot, "host": host}


def _event(spec: dict[str, Any], event: str, **data: object) -> None:
    fd = os.open(f"{spec['folder']}/events.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, (dump({"at": _now(), "attempt": spec["attempt"], "event": event, **data}) + "\n").encode())
        os.fsync(fd)
    finally:
        os.close(fd)


def _replace(path: str, data: bytes, *, is_durable: bool = False) -> None:
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
        stream.write(data)
        if is_durable:
            stream.flush()
            os.fsync(stream.fileno())
    os.replace(temporary, path)


def _environment(spec: dict[str, Any], params: dict[str, str]) -> dict[str, str]:
    found = {**os.environ, **spec["env"]}
    found |= {"KALE_RUN": spec["run"], "KALE_STEP": spec["step"], "KALE_ATTEMPT": str(spec["attempt"]), "KALE_JOB": spec["uuid"], "KALE_STEP_FOLDER": spec["folder"]}
    if spec["point"] is not None:
        found["KALE_POINT"] = str(spec["point"])
    limits = spec["limits"]
    found.setdefault("OMP_NUM_THREADS", str(limits["cpus"]))
    if limits["walltime_s"] is not None:
        found["KALE_ENDS_AT"] = f"{time.time() + limits['walltime_s']:.0f}"
    if limits["gpus"]:
        found["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, limits["gpus"]))
    return {**found, **params, "KALE_OUTPUTS": f"{spec['folder']}/outputs"}


def _bash(program: str, spec: dict[str, Any], environment: dict[str, str]) -> tuple[int, Any]:
    """Run the script; return its wait status and what it used."""
    folder = spec["folder"]
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    logs = [(os.POSIX_SPAWN_OPEN, number, f"{folder}/{name}.log", flags, 0o600) for number, name in ((1, "stdout"), (2, "stderr"))]
    words = ["bash", "-e", "-o", "pipefail", f"{folder}/step.sh"]
    ignored_by_python = [_signal.SIGPIPE, _signal.SIGXFSZ]
    pid = os.posix_spawn(program, words, environment, file_actions=logs, setsigdef=ignored_by_python)
    _signal.signal(_signal.SIGINT, _signal.SIG_IGN)  # a stop is for the shell; we record how it ended
    _, status, usage = os.wait4(pid, 0)
    return status, usage


def _which(program: str, environment: dict[str, str]) -> str | None:
    found = (f"{folder}/{program}" for folder in os.get_exec_path(environment))
    return next((path for path in found if os.access(path, os.X_OK)), None)


def _printed(folder: str) -> list[tuple[str, str]] | None:
    """Return what there is in the logs; None if it is much."""
    found = []
    for name in ("stdout", "stderr"):
        with open(f"{folder}/{name}.log", "rb") as stream:
            data = stream.read(_MAX_LOG + 1)
        if len(data) > _MAX_LOG:
            return None
        if data:
            found.append((name, data.decode("utf-8", "replace")))
    return found


def _complete(spec: dict[str, Any], started_at: str, host: str, printed: list[tuple[str, str]], usage: Any) -> None:
    """Write the record of a step that has completed: notebook, sample, event and, last, the result."""
    folder = spec["folder"]
    _replace(f"{folder}/step.ipynb", _notebook(spec, printed).encode("utf-8", "surrogatepass"), is_durable=True)
    cpu_s, peak = round(usage.ru_utime + usage.ru_stime, 4), usage.ru_maxrss * 1024
    sample = dump({"at": _now(), "cpu_s": cpu_s, "rss_bytes": peak}) + "\n"
    try:
        fd = os.open(f"{folder}/resources.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(fd, sample.encode())
        os.close(fd)
    except OSError:
        pass  # a full disk loses samples, not the step
    _event(spec, "ended", state="completed", reason="")
    result: dict[str, Any] = {
        "uuid": spec["uuid"], "attempt": spec["attempt"], "state": "completed", "exit_code": 0, "signal": None, "reason": "", "error": None,
        "outputs": {}, "files": [], "started_at": started_at, "ended_at": _now(), "node": host, "pid": os.getpid(), "cpu_s": cpu_s,
        "peak_rss_bytes": peak,
    }  # fmt: skip
    _replace(f"{folder}/result.json", dump(result).encode(), is_durable=True)


def _notebook(spec: dict[str, Any], printed: list[tuple[str, str]]) -> str:
    """Return the record as JSON text, nbformat 4.5, see :mod:`kale_proxy.recorder`."""
    cells = []
    if spec["description"]:
        cells.append(f'{{"cell_type":"markdown","id":"kale-0","metadata":{{}},"source":{dump(spec["description"])}}}')
    outputs = ",\n".join(f'{{"name":"{name}","output_type":"stream","text":[{dump(text)}]}}' for name, text in printed)
    source = dump("%%bash\n" + spec["code"].rstrip("\n"))
    head = f'"id":"kale-{len(cells)}","metadata":{{"tags": ["kale-step"]}},"source":{source}'
    cells.append(f'{{"cell_type":"code","execution_count":1,{head},"outputs":[{outputs}]}}')
    name = spec["kernel"] or "python3"
    metadata: dict[str, Any] = {
        "kernelspec": {"name": name, "display_name": name},
        "kale": {key: spec[key] for key in ("run", "step", "point", "attempt")},
    }
    if spec["kernel"] is None:
        metadata["kernelspec"]["display_name"] = "Python 3 (ipykernel)"
        metadata["language_info"] = {"name": "python", "version": sys.version.split()[0], "file_extension": ".py", "mimetype": "text/x-python"}
    body = ",\n".join(cells)
    return f'{{"cells":[\n{body}],\n"metadata":{dump(metadata)},\n"nbformat":4,"nbformat_minor":5}}\n'
