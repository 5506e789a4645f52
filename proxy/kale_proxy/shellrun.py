"""Run a shell step or a batch script: bash, its output straight into the log files, no kernel.

A shell step stops at the first command that fails (``bash -e -o pipefail``), as in Snakemake: a
workflow whose third of five commands failed has not completed. A script runs as it stands.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kale_proxy import claim, values
from kale_proxy.attempt import STOPPED, check_files, job_environment, require_files
from kale_proxy.record import (
    cells_of,
    new_result,
    notebook_metadata,
    now,
    publish,
    write_event,
    write_result,
    write_sample,
)
from kale_proxy.recorder import CELL_PREFIX, Recorder
from kale_proxy.shellask import Desk, preamble

if TYPE_CHECKING:
    from collections.abc import Callable

    from kale_proxy.spec import JobResult, JobSpec

_LOG_SHOWN = 4 << 20


def run(spec: JobSpec, live: Path, tell: Callable[[str, str], None] = lambda *_: None) -> JobResult:
    """Run the step in this process's child and write its record; the result is on disk when this returns.

    ``tell`` gets state and reason when the script asks a person.
    """
    claim.take(spec)
    started_at = now()
    folder = Path(spec.folder)
    write_event(spec, "running", pid=os.getpid(), live=str(live))
    publish(spec, live)
    try:
        environment = {**os.environ, **spec.env, **job_environment(spec), **shell_variables(spec)}
        require_files(spec)
        command = write_script(spec)
        desk = Desk(spec, live, tell) if is_asking(spec) else None
        if desk is not None:
            environment |= desk.open()
        if spec.container is not None:
            from kale_proxy.container import ContainerError, wrap

            try:
                command, environment = wrap(spec, live, command, environment)
            except ContainerError as exc:
                return _finish(spec, new_result(spec, "failed", started_at, exit_code=127, reason=str(exc)))
    except values.ValueFileError as exc:
        return _finish(spec, new_result(spec, "failed", started_at, exit_code=1, reason=f"step `{spec.step}` could not get its inputs: {exc}"))
    outputs = folder / "outputs"
    outputs.mkdir(mode=0o700, exist_ok=True)
    with (folder / "stdout.log").open("ab") as out, (folder / "stderr.log").open("ab") as err:
        try:
            child = subprocess.Popen(command, cwd=spec.cwd, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        except OSError as exc:
            reason = f"{command[0]} could not be started: {exc.strerror or exc}"
            return _finish(spec, new_result(spec, "failed", started_at, exit_code=127, reason=reason))
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a stop is for the shell; we record how it ended
        code = child.wait()
        if desk is not None:
            desk.close()
    return conclude(spec, code, started_at, is_stopped=(live / "stop").exists())


def conclude(spec: JobSpec, code: int, started_at: str, *, is_stopped: bool) -> JobResult:
    """Judge and record a step whose script ended with ``code`` (a signal's number, negative), as :func:`run` does."""
    return _finish(spec, _judge(spec, code, started_at, is_stopped=is_stopped))


def shell_variables(spec: JobSpec) -> dict[str, str]:
    """Return parameters and inputs as environment variables.

    Text and numbers as they are, lists and dicts as JSON, any other value as the path of its file;
    ``KALE_OUTPUTS`` is the folder where a file ``NAME.json`` or ``NAME.npy`` becomes the output NAME.
    """
    found = {name: as_text(value) for name, value in spec.parameters().items()}
    for item in spec.inputs:
        paths = [values.file_of(Path(folder), item.output, Path(spec.folder) / "inputs") for folder in item.folders]
        if all(path.suffix == ".json" for path in paths):
            loaded: list[Any] = [values.load_file(path, item.output) for path in paths]
            found[item.name] = as_text(loaded if item.gather else loaded[0])
        else:
            found[item.name] = "\n".join(str(path) for path in paths)
    found["KALE_OUTPUTS"] = str(Path(spec.folder) / "outputs")
    return found


def is_asking(spec: JobSpec) -> bool:
    """Whether a script may ask a person; in a container it could not reach us."""
    return spec.kind == "shell" and spec.container is None and bool(preamble(spec.code))


def write_script(spec: JobSpec) -> list[str]:
    """Write what bash runs into the step's folder and return the command."""
    path = Path(spec.folder) / "step.sh"
    if spec.kind == "script":
        values.write_atomic(path, spec.code.encode())
        path.chmod(0o700)
        return [str(path)] if spec.code.startswith("#!") else ["bash", str(path)]
    lines = [f'  if [ -n "${{{name}+x}}" ]; then printf %s "${{{name}}}" > "$KALE_OUTPUTS/{name}.txt"; fi' for name in spec.outputs]
    save = "\n".join(["kale_save() {", "  kale_code=$?", *lines, "  exit $kale_code", "}", "trap kale_save EXIT", ""]) if lines else ""
    values.write_atomic(path, (save + (preamble(spec.code) if is_asking(spec) else "") + spec.code).encode())
    return ["bash", "-e", "-o", "pipefail", str(path)]


def record_logs(recorder: Recorder, folder: Path) -> None:
    """Put the logs (their ends, when long) into the record as the cell's output."""
    for name in ("stdout", "stderr"):
        path = folder / f"{name}.log"
        if not path.exists() or not path.stat().st_size:
            continue
        with path.open("rb") as stream:
            size = path.stat().st_size
            stream.seek(max(0, size - _LOG_SHOWN))
            text = stream.read().decode("utf-8", "replace")
        cut = f"[the first {(size - _LOG_SHOWN) >> 20} MB are in {name}.log]\n" if size > _LOG_SHOWN else ""
        msg_id = recorder.cells[-1].msg_id
        recorder.content(msg_id, "stream", {"name": name, "text": cut + text})


def _judge(spec: JobSpec, code: int, started_at: str, *, is_stopped: bool) -> JobResult:
    if code != 0:
        if is_stopped:
            return new_result(spec, "cancelled", started_at, exit_code=130, reason=STOPPED)
        signum = -code if code < 0 else None
        how = f"was ended by {signal.Signals(signum).name}" if signum else f"ended with exit code {code}"
        tail = _tail(Path(spec.folder) / "stderr.log")
        error = {"ename": "ShellError", "evalue": f"the script {how}", "traceback": tail}
        reason = f"the script {how}" + (f": {tail[-1]}" if tail else "")
        return new_result(spec, "failed", started_at, exit_code=code if signum is None else 128 + signum, signal=signum, reason=reason, error=error)
    try:
        index = collect(spec)
        files = check_files(spec)
    except values.ValueFileError as exc:
        return new_result(spec, "failed", started_at, exit_code=1, reason=f"step `{spec.step}`: {exc}")
    return new_result(spec, "completed", started_at, exit_code=0, outputs=index, files=tuple(files))


def collect(spec: JobSpec) -> dict[str, dict[str, Any]]:
    """Turn what the script left into values: variables are typed as literals where they parse, else text."""
    folder = Path(spec.folder) / "outputs"
    index: dict[str, dict[str, Any]] = {}
    for name in spec.outputs:
        text = folder / f"{name}.txt"
        form = spec.formats.get(name, "")
        if text.exists() and not any((folder / f"{name}{suffix}").exists() for suffix in values.SUFFIXES):
            index[name] = values.save(name, _as_value(text.read_text(encoding="utf-8", errors="replace")), folder, form=form)
        else:
            try:
                path = values.find(folder, name)
            except values.ValueFileError as exc:
                hint = f"set the variable {name}, or write $KALE_OUTPUTS/{name}.{form or 'json'}"
                raise values.ValueFileError(f"it declares the output `{name}` but never made it: {hint}") from exc
            if form and path.suffix != f".{form}":
                raise values.ValueFileError(f"it declares the output `{name}` as {form} but made {path.name}")
            try:
                index[name] = values.describe_file(path, name)
            except ValueError as exc:
                raise values.ValueFileError(f"its output {path.name} can't be read: {exc}") from exc
        text.unlink(missing_ok=True)
    if index:
        values.write_atomic(folder / values.INDEX, json.dumps(index, indent=1).encode())
    return index


def _finish(spec: JobSpec, result: JobResult) -> JobResult:
    folder = Path(spec.folder)
    recorder = Recorder(folder, cells_of(spec), notebook_metadata(spec), writes_logs=False)
    record_logs(recorder, folder)
    recorder.content(f"{CELL_PREFIX}step-{spec.uuid}", "execute_input", {"execution_count": 1})
    if result.state == "failed":
        recorder.error_output("ShellError", result.reason, [result.reason])
    recorder.save(is_durable=True)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    final = new_result(
        spec, result.state, result.started_at, exit_code=result.exit_code, signal=result.signal, reason=result.reason, error=result.error,
        outputs=result.outputs, files=result.files, pid=os.getpid(), cpu_s=round(usage.ru_utime + usage.ru_stime, 4),
        peak_rss_bytes=usage.ru_maxrss * 1024,
    )
    write_sample(spec, final.cpu_s or 0.0, final.peak_rss_bytes or 0)
    write_event(spec, "ended", state=final.state, reason=final.reason)
    write_result(spec, final)
    return final


def as_text(value: object) -> str:
    """Return a value as an environment variable has it."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None:
        return {True: "1", False: "0", None: ""}[value]
    return json.dumps(value) if isinstance(value, (list, dict)) else str(value)


def _as_value(text: str) -> object:
    """Return the number or literal whose text this exactly is, else the text."""
    import ast

    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return value if repr(value) == text or isinstance(value, (list, dict)) else text


def _tail(path: Path, lines: int = 20) -> list[str]:
    try:
        with path.open("rb") as stream:
            stream.seek(max(0, path.stat().st_size - 8192))
            return [line for line in stream.read().decode("utf-8", "replace").splitlines() if line.strip()][-lines:]
    except OSError:
        return []
