"""Import and run every ``.cwl`` file of a folder of examples, and say how many do what cwltool makes of them.

python tests/benchmarks/cwl_examples.py FOLDER     FOLDER: src/_includes/cwl of a checkout of common-workflow-language/user_guide

An example is run with the job that ``cwl_tests.yml`` names, else with one of the folder's jobs whose names are its inputs, else with
none; its outputs are to be those of ``cwl_tests.yml`` or cwltool's. Both sides get a fresh copy of the folder. An example that cwltool
refuses, or that fails there, counts if it does so here.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from cwl_conformance import _RUN, described, differs

_PLACES = {"location", "path", "nameroot", "nameext", "dirname", "http://commonwl.org/cwltool#generation"}


def jobs(root):
    """Return each example with its job, both relative to the folder, and what is expected of it, None if nothing is said."""
    listed = root / "cwl_tests.yml"
    tests = yaml.safe_load(listed.read_text()) if listed.is_file() else []
    named = {test["tool"]: test for test in tests if not test.get("should_fail")}
    for tool in sorted(root.rglob("*.cwl")):
        name = tool.relative_to(root).as_posix()
        test = named.get(name, {})
        yield name, test.get("job") or fitting(root, tool), test.get("output")


def fitting(root, tool):
    """Return a job that gives a tool its inputs, the nearest one; empty if there is none."""
    inputs = yaml.safe_load(tool.read_text()).get("inputs") or {}
    names = set(inputs) if isinstance(inputs, dict) else {item["id"] for item in inputs}
    found = [path for pattern in ("*.yml", "*.json") for path in sorted(root.rglob(pattern))]
    for job in sorted(found, key=lambda path: path.parent != tool.parent):
        data = yaml.safe_load(job.read_text())
        if names and isinstance(data, dict) and set(data) == names:
            return job.relative_to(root).as_posix()
    return ""


def beside(place, tool, job):
    """Put a job, and what lies beside it, beside the tool: files are named from there."""
    home, source = (Path(place, "cwl", name).parent for name in (tool, job))
    for path in [] if home == source else source.iterdir():
        if path.is_file() and not (home / path.name).exists():
            shutil.copy(path, home)
    return str(home / Path(job).name)


def tried(root, words, tool, job):
    """Run an example by a command in a copy of the folder; return its outputs, or None, and what it said last."""
    with tempfile.TemporaryDirectory(prefix="kale-cwl-") as place:
        shutil.copytree(root, f"{place}/cwl", symlinks=True)
        words = [*words, f"{place}/cwl/{tool}", *([beside(place, tool, job)] if job else [""] if "-c" in words else [])]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=place, stdin=subprocess.DEVNULL, env={**os.environ, "PATH": path}, check=False)
        if done.returncode:
            return None, told(done, place)
        return described(json.loads(done.stdout.rpartition("@@@")[2])), ""


def told(done, place):
    """Return why it failed, in a line: the first that says so."""
    text = re.sub(r"\x1b\[[\d;]*m", "", done.stderr or done.stdout).replace(f"file://{place}", "").replace(place, "")
    lines = [line.strip() for line in text.splitlines() if line.strip() and "WARNING" not in line]
    said = next((number for number, line in enumerate(lines) if "ERROR" in line or "error:" in line), len(lines) - 1) if lines else 0
    return " ".join(lines[said : said + 3])[:300] or f"exit code {done.returncode}"


def compared(root, tool, job, wanted):
    """Return what is wrong here with an example, empty if nothing is, and what cwltool says if it fails there."""
    here, why = tried(root, [sys.executable, "-c", _RUN], tool, job)
    there, other = tried(root, ["cwltool", "--quiet", "--no-container", "--outdir", "out"], tool, job)
    if there is None:
        return ("" if here is None else "it should have failed"), other
    return why if here is None else (wanted is None or differs(wanted, here)) and differs(plain(there), here), ""


def plain(value):
    """Return outputs without what names a place of its own on each side, or by chance."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        by_chance = {"basename"} if re.fullmatch("[0-9a-f]{40}", str(value.get("basename"))) else set()
        return {key: plain(item) for key, item in value.items() if key not in _PLACES | by_chance}
    return value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("which", nargs="?", default="", help="a part of the names of those to try")
    options = parser.parse_args()
    root = options.folder.resolve()
    chosen = [item for item in jobs(root) if options.which in item[0]]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as workers:
        found = list(workers.map(lambda item: compared(root, *item), chosen))
    good = [not wrong for wrong, _ in found]
    for (tool, job, _), (wrong, other) in zip(chosen, found, strict=True):
        says = f"differs: {wrong}" if wrong else f"fails in both: {other}" if other else "same"
        print(f"{tool} ({job or 'no job'}): {says}")
    both = sum(1 for wrong, other in found if other and not wrong)
    print(f"{sum(good)} of {len(found)} examples do what cwltool makes of them; {both} of these are refused or fail in both")


if __name__ == "__main__":
    main()
