"""Import and run every ``.cwl`` file of a folder of examples, and say how many do what cwltool makes of them.

python tests/benchmarks/cwl_examples.py FOLDER     FOLDER: src/_includes/cwl of a checkout of common-workflow-language/user_guide

An example is run with the job that ``cwl_tests.yml`` names, else with one beside it whose names are its inputs, else with none. Both
sides get a fresh copy of the folder. An example that cwltool refuses, or that fails there, counts if it does so here.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from cwl_conformance import _RUN, described, differs


def jobs(root):
    """Return each example with its job, both relative to the folder."""
    listed = root / "cwl_tests.yml"
    tests = yaml.safe_load(listed.read_text()) if listed.is_file() else []
    named = {test["tool"]: test.get("job") or "" for test in tests if not test.get("should_fail")}
    for tool in sorted(root.rglob("*.cwl")):
        name = tool.relative_to(root).as_posix()
        yield name, named[name] if name in named else fitting(root, tool)


def fitting(root, tool):
    """Return the job beside a tool that gives its inputs, empty if there is none."""
    inputs = yaml.safe_load(tool.read_text()).get("inputs") or {}
    names = set(inputs) if isinstance(inputs, dict) else {item["id"] for item in inputs}
    for job in sorted([*tool.parent.glob("*.yml"), *tool.parent.glob("*.json")]):
        data = yaml.safe_load(job.read_text())
        if names and isinstance(data, dict) and set(data) == names:
            return job.relative_to(root).as_posix()
    return ""


def tried(root, words):
    """Run a command in a copy of the folder; return its outputs, or None, and what it said last."""
    with tempfile.TemporaryDirectory(prefix="kale-cwl-") as place:
        shutil.copytree(root, f"{place}/cwl", symlinks=True)
        words = [word.replace("@", place, 1) if word.startswith("@") else word for word in words]
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=place, stdin=subprocess.DEVNULL, env={**os.environ, "PATH": path}, check=False)
        lines = (done.stderr or done.stdout).strip().splitlines()
        if done.returncode:
            return None, (lines[-1] if lines else f"exit code {done.returncode}").replace(place, "")
        return described(json.loads(done.stdout.rpartition("@@@")[2])), ""


def compared(root, tool, job):
    """Return what is wrong here with an example, empty if nothing is, and what cwltool says if it fails there."""
    here, why = tried(root, [sys.executable, "-c", _RUN, f"@/cwl/{tool}", f"@/cwl/{job}" if job else ""])
    there, other = tried(root, ["cwltool", "--quiet", "--no-container", "--outdir", "@/out", f"@/cwl/{tool}", *([f"@/cwl/{job}"] if job else [])])
    if there is None:
        return ("" if here is None else "it should have failed"), other
    return (why if here is None else differs(plain(there), here)), ""


def plain(value):
    """Return outputs without what names a place of its own on each side."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in {"location", "path", "nameroot", "nameext", "dirname", "http://commonwl.org/cwltool#generation"}}
    return value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("which", nargs="?", default="", help="a part of the names of those to try")
    options = parser.parse_args()
    root = options.folder.resolve()
    chosen = [(tool, job) for tool, job in jobs(root) if options.which in tool]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as workers:
        found = list(workers.map(lambda item: compared(root, *item), chosen))
    good = [not wrong for wrong, _ in found]
    for (tool, job), (wrong, other) in zip(chosen, found, strict=True):
        says = f"differs: {wrong}" if wrong else f"fails in both: {other}" if other else "same"
        print(f"{tool} ({job or 'no job'}): {says}")
    both = sum(1 for wrong, other in found if other and not wrong)
    print(f"{sum(good)} of {len(found)} examples do what cwltool makes of them; {both} of these are refused or fail in both")


if __name__ == "__main__":
    main()
