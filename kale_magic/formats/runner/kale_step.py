"""Run one step of an exported Kale workflow: ``python3 kale_step.py STEP.json [--point N]``. Kale need not be installed.

The JSON file says what the step takes and makes; its code stands beside it. Values go from step to step as one file each
(``kale_values.py`` writes and reads them). Steps in Python run in this process, in shell by bash, those of
other kernels, and notebooks, by nbclient. Standard library only, unless the step's own code asks for more.
"""

from __future__ import annotations

import argparse
import ast
import glob
import io
import itertools
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kale_values as values  # type: ignore[import-not-found] # stands beside this file where it runs

if TYPE_CHECKING:
    from collections.abc import Iterable

_SETUP_DONE = "KALE_SETUP_DONE"
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
_SUFFIXES = (".json", ".npy", ".pkl")
_NUMBERS = {"nan": float("nan"), "inf": float("inf"), "nanj": complex(0, float("nan"))}


class StepError(Exception):
    """The step can't go on; the message is for a person."""


class Step:
    """What a step's JSON file says, with all paths made absolute.

    Attributes
    ----------
    data : dict
        The step: name, kind, kernel, makes (its outputs), files_in, files_out, env, modules, setup, cpus.
    code, common : Path
        Its code, and the code before every Python step.
    params : dict
        Variables to begin with.
    takes : dict
        Per variable the files of its value, and whether it is a list over a sweep's points.
    swept : dict
        Per sweep that values come from, the parameters of each point.
    outputs : Path
        Folder for the values.
    """

    data: dict[str, Any]
    code: Path
    common: Path | None
    params: dict[str, object]
    takes: dict[str, tuple[list[Path], bool, str]]
    swept: dict[str, list[dict[str, object]]]
    outputs: Path
    point: int | None = None
    is_alone = False  # whether it runs in a folder of its own, as CWL wants it

    @property
    def name(self) -> str:
        """The step's name."""
        return str(self.data["name"])


def main() -> int:
    """Run the step that the command line names; return its exit code."""
    parser = argparse.ArgumentParser(description="Run one step of an exported Kale workflow.")
    parser.add_argument("step", metavar="STEP.json", type=Path)
    parser.add_argument("--point", type=int, metavar="N", help="this point of a sweep, counted from 0")
    arguments = parser.parse_args()
    try:
        data = json.loads(arguments.step.read_text(encoding="utf-8"))
        step = from_cwl(data) if "kale_told" in data else from_file(data, arguments.step.resolve(), arguments.point)
        enter_setup(step)
        return followed(step)
    except (StepError, values.ValueFileError, OSError) as exc:
        print(f"kale: {exc}", file=sys.stderr)
        return 1


def from_file(data: dict[str, Any], path: Path, point: int | None) -> Step:
    """Read a step of a project's folder; results are in ``results/STEP`` or ``results/STEP/POINT`` beside ``steps``."""
    root = path.parent.parent
    points = product(data.get("each", {}), is_zipped=data.get("zip", False))
    if (point is None) == bool(data.get("each")) or not 0 <= (point or 0) < len(points):
        raise StepError(f"step {data['name']} has {len(points)} points: --point takes 0 to {len(points) - 1}, if it is a sweep.")
    step = Step()
    step.data, step.point = data, point
    step.code = path.parent / data["code"]
    step.common = path.parent / data["common"] if data.get("common") else None
    step.params = {**{name: decode(value) for name, value in data.get("params", {}).items()}, **points[point or 0]}
    step.takes, step.swept = {}, {}
    for name, item in data.get("takes", {}).items():
        folder = root / "results" / item["step"]
        count = item.get("points")
        folders = [folder] if count is None else [folder / str(number) for number in range(count)]
        step.takes[name] = ([values.find(at, item["output"]) for at in folders], count is not None, item["step"])
        if count is not None:
            other = json.loads((path.parent / f"{item['step']}.json").read_text(encoding="utf-8"))
            step.swept[item["step"]] = points_apart(product(other["each"], is_zipped=other.get("zip", False)))
    step.outputs = root / "results" / data["name"] / (str(point) if point is not None else "")
    os.chdir(root)
    return step


def from_cwl(data: dict[str, Any]) -> Step:
    """Read the inputs of a CWL tool as its runner wrote them; results go to ``outputs`` in the current folder."""
    step = Step()
    step.data, step.is_alone = json.loads(data["kale_told"]), True
    step.code = Path(data["kale_code"]["path"])
    step.common = Path(data["kale_common"]["path"]) if data.get("kale_common") else None
    literals = set(step.data.get("literals", ()))
    step.params = {
        name: literal(data[name]) if name in literals else data[name] for name in step.data.get("variables", ())
    }
    step.takes, step.swept = {}, {}
    for name, producer in step.data.get("takes", {}).items():
        found = data[name] if isinstance(data[name], list) else [data[name]]
        step.takes[name] = ([Path(file["path"]) for file in found], isinstance(data[name], list), producer)
    for producer, sweep in step.data.get("sweeps", {}).items():
        each = {
            axis: [literal(item) if axis in sweep["literals"] else item for item in data[f"{producer}.{axis}"]]
            for axis in sweep["axes"]
        }
        step.swept[producer] = points_apart(product(each, is_zipped=sweep["zip"]))
    for folder in data.get("kale_files", ()):
        copy_into(Path(folder["path"]), Path.cwd())
    step.outputs = Path.cwd() / "outputs"
    return step


def product(each: dict[str, list[Any]], *, is_zipped: bool) -> list[dict[str, object]]:
    """Return the swept parameters of each point; the last axis varies fastest."""
    columns = [[decode(value) for value in column] for column in each.values()]
    rows = zip(*columns) if is_zipped and columns else itertools.product(*columns)  # noqa: B905 - Python 3.9 has no strict
    return [dict(zip(each, row)) for row in rows]  # noqa: B905


def points_apart(points: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return equal points that share no object, as Kale hands them on: what is pickled of them has the same bytes."""
    return [literal(repr(point)) for point in points]


def copy_into(source: Path, target: Path) -> None:
    """Copy the files that a step before this one made; a file that is there is left."""
    for path in sorted(source.rglob("*")):
        if path.is_file() and not (copy := target / path.relative_to(source)).exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def decode(value: Any) -> Any:
    """Return the value that stands for itself in JSON, or as ``{"literal": TEXT}``, at any depth."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if isinstance(value, dict):
        return literal(value["literal"]) if set(value) == {"literal"} else {key: decode(item) for key, item in value.items()}
    return value


def literal(text: str) -> Any:
    """Return the value of a Python literal, in which ``nan`` and ``inf`` may stand."""

    class Named(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.expr:
            return ast.Constant(_NUMBERS[node.id]) if node.id in _NUMBERS else node

    return ast.literal_eval(Named().visit(ast.parse(text.strip(), mode="eval")).body)


def enter_setup(step: Step) -> None:
    """Load the modules and run the set-up lines in a shell that then starts this script again."""
    lines = [f"module load {quoted}" for quoted in map(json.dumps, step.data.get("modules", ()))] + step.data.get("setup", [])
    if lines and os.environ.get(_SETUP_DONE) != step.name:
        os.environ[_SETUP_DONE] = step.name
        again = [Path(sys.argv[0]).resolve(), Path(sys.argv[1]), *sys.argv[2:]]
        if not step.is_alone:
            again[1] = step.code.parent / Path(sys.argv[1]).name
        script = "\n".join(["set -e", *lines, 'exec python3 "$@"'])
        os.execvp("bash", ["bash", "-lc" if step.data.get("modules") else "-c", script, "bash", *map(str, again)])  # noqa: S606


def followed(step: Step) -> int:
    """Run the step; tell who started the engine, if it gave a file of Python that wants to know."""
    hook = os.environ.get("KALE_HOOK")
    if hook is None:
        return finish(step, run(step))
    tell = runpy.run_path(hook)["tell"]
    tell(step, "running")
    try:
        code = run(step)
    except BaseException as exc:
        tell(step, "ended", f"{type(exc).__name__}: {exc}", exc.code if isinstance(exc, SystemExit) and isinstance(exc.code, int) else 1)
        raise
    tell(step, "ended", f"it ended with exit code {code}" if code else "", code)
    return finish(step, code)


def run(step: Step) -> int:
    """Run the step and save what it makes; return the exit code."""
    for name, text in step.data.get("env", {}).items():
        os.environ[name] = _VARIABLE.sub(lambda match: os.environ.get(match[1] or match[2], ""), text)
    os.environ["KALE_STEP"] = step.name
    os.environ.setdefault("OMP_NUM_THREADS", str(step.data.get("cpus") or 1))
    os.environ.setdefault("MPLBACKEND", "Agg")
    if step.point is not None:
        os.environ["KALE_POINT"] = str(step.point)
    for pattern in step.data.get("files_in", ()):
        if not any(glob.iglob(pattern, recursive=True)):
            raise StepError(f"no file matches --files-in {pattern}")
    if step.outputs.exists():
        shutil.rmtree(step.outputs) if step.is_alone else clear(step.outputs)
    step.outputs.mkdir(parents=True, exist_ok=True)
    kinds = {"python": run_python, "kernel": run_kernel, "notebook": run_kernel}
    code = kinds.get(step.data.get("kind", "python"), run_shell)(step)
    if code == 0:
        keep_files(step)
    return code


def finish(step: Step, code: int) -> int:
    """Name the values after the step where those of many steps end in one folder; return the exit code."""
    for path in list(step.outputs.iterdir()) if step.is_alone and code == 0 else ():
        path.rename(path.with_name(f"{step.name}.{path.stem}{point_words(step)}{path.suffix}"))
    return code


def clear(folder: Path) -> None:
    """Remove the values of an earlier run; logs stay, since one of them is being written."""
    for path in folder.iterdir():
        if path.suffix in _SUFFIXES:
            path.unlink()


def run_python(step: Step) -> int:
    """Run a Python step as ``__main__``."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # logs are read while the step runs
    sys.argv[:] = [str(step.code)]
    sys.path[0] = os.getcwd()
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    space = module.__dict__
    space.update(step.params)
    later = load_inputs(step, space)
    before = set(space)
    try:
        if step.common:
            execute(step.common, module)
        known = set(space) - before
        load_inputs(step, space, later)
        execute(step.code, module)
    except SystemExit as exc:
        if exc.code not in {None, 0}:
            raise
    missing = [name for name in step.data.get("makes", ()) if name not in space]
    if missing:
        raise StepError(f"step {step.name} declares the output `{missing[0]}` but its code never assigned it")
    values.save_all({name: space[name] for name in step.data.get("makes", ())}, step.outputs, portable=known)
    return 0


def load_inputs(step: Step, space: dict[str, Any], names: Iterable[str] | None = None) -> list[str]:
    """Load the values of the steps before into ``space``; a sweep's are a list in point order, with ``NAME_params``.

    Returns those that need a class of the common code, and so can be loaded only after it.
    """
    later = []
    for name in step.takes if names is None else names:
        files, is_list, producer = step.takes[name]
        try:
            loaded = [values.load(file.parent, file.stem) for file in files]
        except values.ValueFileError:
            if names is not None or step.common is None:
                raise
            later.append(name)
            continue
        space[name] = loaded if is_list else loaded[0]
        if is_list:
            space[f"{name}_params"] = step.swept[producer]
            space.setdefault(f"{producer}_params", step.swept[producer])
    return later


def execute(path: Path, module: types.ModuleType) -> None:
    """Run a file in a module: as plain Python, or by IPython if it has IPython's own syntax or names."""
    text = path.read_text(encoding="utf-8")
    try:
        code = compile(text, str(path), "exec")
    except SyntaxError:
        code = None
    if code is not None and not re.search(r"\b(?:get_ipython|display)\b", text):
        exec(code, module.__dict__)  # noqa: S102 - the step
        return
    try:
        from IPython.core.interactiveshell import InteractiveShell
        from IPython.display import display
    except ImportError:
        if code is not None and "get_ipython" not in text:
            module.__dict__.setdefault("display", print)
            exec(code, module.__dict__)  # noqa: S102
            return
        raise StepError(f"{path.name} has IPython's own syntax: pip install ipython") from None

    class Shell(InteractiveShell):  # type: ignore[misc] # is Any where it is not installed
        def enable_gui(self, gui: str | None = None) -> None:
            """Nobody looks at windows here."""

    module.__dict__.setdefault("display", display)
    shell = Shell.instance(user_module=module, user_ns=module.__dict__)
    shell.run_cell(text, silent=True).raise_error()


def run_shell(step: Step) -> int:
    """Run a shell step, or a batch script as it stands; variables that are outputs are saved when bash ends."""
    environment = {**os.environ, **{name: as_text(value) for name, value in step.params.items()}}
    for name, (files, is_list, _) in step.takes.items():
        if all(file.suffix == ".json" for file in files):
            loaded = [values.load(file.parent, file.stem) for file in files]
            environment[name] = as_text(loaded if is_list else loaded[0])
        else:
            environment[name] = "\n".join(map(str, files))
    environment["KALE_OUTPUTS"] = str(step.outputs)
    outputs = step.data.get("makes", [])
    code = step.code.read_text(encoding="utf-8")
    if step.data["kind"] == "script":
        first = code.split("\n", 1)[0]
        command = [*(first[2:].split() if first.startswith("#!") else ["bash"]), str(step.code)]
    else:
        lines = [f'  if [ -n "${{{name}+x}}" ]; then printf %s "${{{name}}}" > "$KALE_OUTPUTS/{name}.txt"; fi' for name in outputs]
        save = "\n".join(["kale_save() {", "  kale_code=$?", *lines, "  exit $kale_code", "}", "trap kale_save EXIT", ""])
        command = ["bash", "-e", "-o", "pipefail", "-c", (save if outputs else "") + code]
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        return done.returncode if done.returncode > 0 else 128 - done.returncode
    for name in outputs:
        text = step.outputs / f"{name}.txt"
        if not any((step.outputs / f"{name}{suffix}").exists() for suffix in _SUFFIXES):
            if not text.exists():
                raise StepError(f"step {step.name} declares the output `{name}` but never made it: set the variable {name}")
            values.save(name, as_value(text.read_text(encoding="utf-8", errors="replace")), step.outputs)
        text.unlink(missing_ok=True)
    write_index(step)
    return 0


def run_kernel(step: Step) -> int:
    """Run a step of another kernel, or a notebook, by nbclient; values go to and from Python kernels only."""
    try:
        import nbclient
        import nbformat.v4
    except ImportError:
        raise StepError(f"step {step.name} runs in a kernel of its own: pip install nbclient ipykernel") from None
    cell = nbformat.v4.new_code_cell
    kernel, at = step.data.get("kernel"), 0
    if step.data["kind"] == "notebook":  # by papermill's convention, as in Kale
        book = nbformat.read(step.code, as_version=4)
        book.cells = [one for one in book.cells if "injected-parameters" not in one.metadata.get("tags", ())]
        kernel = kernel or book.metadata.get("kernelspec", {}).get("name") or "python3"
        at = next((number for number, one in enumerate(book.cells, 1) if "parameters" in one.metadata.get("tags", ())), 0)
    else:
        book = nbformat.v4.new_notebook(cells=[cell(step.code.read_text(encoding="utf-8"))])
    if step.params:
        book.cells.insert(at, cell("\n".join(assignments(step, str(kernel)))))
    outputs = step.data.get("makes", [])
    if outputs or step.takes:
        reads = ["import sys", f"sys.path.insert(0, {str(Path(values.__file__).parent)!r})", "import kale_values as _kale, pathlib as _kale_path"]
        for name, (files, is_list, producer) in step.takes.items():
            loads = [f"_kale.load(_kale_path.Path({str(file.parent)!r}), {file.stem!r})" for file in files]
            reads.append(f"{name} = [{', '.join(loads)}]" if is_list else f"{name} = {loads[0]}")
            if is_list:
                reads.append(f"{name}_params = {step.swept[producer]!r}")
        wanted = "{" + ", ".join(f"{name!r}: {name}" for name in outputs) + "}"
        book.cells.insert(0, cell("\n".join(reads)))
        book.cells.append(cell(f"_kale_index = _kale.save_all({wanted}, _kale_path.Path({str(step.outputs)!r}))"))
    try:
        nbclient.NotebookClient(book, kernel_name=kernel, timeout=None).execute(cwd=os.getcwd())
    except nbclient.exceptions.CellExecutionError as exc:
        print(exc, file=sys.stderr)
        return 1
    for output in itertools.chain.from_iterable(one.get("outputs", ()) for one in book.cells):
        if output.output_type != "error":
            print(output.get("text") or output.get("data", {}).get("text/plain", ""), end="" if "text" in output else "\n")
    write_index(step)
    return 0


def assignments(step: Step, kernel: str) -> list[str]:
    """Return lines that set the parameters in the language of the step's kernel, as far as its name tells it."""
    kernel = kernel.lower()
    if kernel == "ir" or kernel.startswith("julia"):
        sign = "<-" if kernel == "ir" else "="
        return [f"{name} {sign} {json.dumps(value)}" for name, value in step.params.items()]
    if "bash" in kernel:
        import shlex

        return [f"{name}={shlex.quote(as_text(value))}" for name, value in step.params.items()]
    return [f"{name} = {value!r}" for name, value in step.params.items()]


def write_index(step: Step) -> None:
    """Write the list of a step's values, which engines take for the mark that it has ended."""
    index = {}
    for name in step.data.get("makes", ()):
        path = values.find(step.outputs, name)
        index[name] = {"file": path.name, "bytes": path.stat().st_size}
    values.write_atomic(step.outputs / values.INDEX, json.dumps(index, indent=1).encode())


def keep_files(step: Step) -> None:
    """Check the files that the step promised; in a folder of its own, gather them for the steps after it."""
    for pattern in step.data.get("files_out", ()):
        matches = sorted(glob.glob(pattern, recursive=True))
        if not matches:
            raise StepError(f"step {step.name} made no file that matches --files-out {pattern}")
        for match in matches if step.is_alone else ():
            copy = Path(f"{step.name}.files{point_words(step)}") / match
            copy.parent.mkdir(parents=True, exist_ok=True)
            if Path(match).is_dir():
                shutil.copytree(match, copy, dirs_exist_ok=True)
            else:
                shutil.copyfile(match, copy)


def point_words(step: Step) -> str:
    """Return the values of a sweep's point as a part of a file's name, empty for a plain step."""
    words = [re.sub(r"[^\w.-]+", "_", str(step.params[name]))[:40] for name in step.data.get("axes", ())]
    return "".join(f".{word}" for word in words)


def as_text(value: object) -> str:
    """Return a value as a shell takes it: text and numbers as they are, lists and dicts as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None:
        return {True: "1", False: "0", None: ""}[value]
    return json.dumps(value) if isinstance(value, (list, dict)) else str(value)


def as_value(text: str) -> object:
    """Return the number or literal whose text this exactly is, else the text."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return value if repr(value) == text or isinstance(value, (list, dict)) else text


if __name__ == "__main__":
    sys.exit(main())
