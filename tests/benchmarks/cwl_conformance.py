"""Import and run the conformance tests of CWL v1.2, and say how many do what they should.

python tests/benchmarks/cwl_conformance.py FOLDER [TAG or ID]     FOLDER: a checkout of common-workflow-language/cwl-v1.2

Steps are run in one process each, in plan order, without a manager: what is measured is the import and what it makes of tools.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

_RUN = """
import json, os, sys
from pathlib import Path
from kale_magic.formats import cwl_read
from kale_magic.model import dataflow
tool, _, process = sys.argv[1].partition("#")
job = cwl_read.load_job(Path(sys.argv[2]), Path(tool).parent) if sys.argv[2] else None
workflow = cwl_read.load(Path(tool).read_text(), Path(tool), job, process)
plan = dataflow.resolve(workflow)
os.chdir(Path(tool).parent)
values = {}
for name in plan.order:
    step, made = workflow.steps[name], []
    for number, point in enumerate(step.points()):
        space = {"__name__": "__main__", **step.params, **point}
        space.update({b.name: values[b.producer, b.output] for b in plan.steps[name].bindings})
        os.environ.pop("KALE_POINT", None)
        if step.is_sweep:
            os.environ["KALE_POINT"] = str(number)
        exec(workflow.common_code(), space)
        exec(step.code, space)
        made.append(space)
    for output in step.outputs:
        values[name, output] = [space[output] for space in made] if step.is_sweep else made[0][output]
print("@@@" + json.dumps(values[plan.order[-1] if "cwl_outputs" not in plan.steps else "cwl_outputs", "outputs"]))
"""


def tests(root, file):
    """Return the tests of a list, those of the lists it imports included."""
    found, folder = [], os.path.dirname(file)
    for item in yaml.safe_load((root / file).read_text()):
        if "$import" in item:
            found += tests(root, os.path.join(folder, item["$import"]))
        else:
            found.append({**item, "tool": os.path.join(folder, item["tool"]), "job": os.path.join(folder, item["job"]) if item.get("job") else ""})
    return found


def described(value):
    """Return a result as the tests describe it: sizes and checksums of files, listings of folders."""
    if isinstance(value, list):
        return [described(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("class") == "File":
        data = Path(value["path"]).read_bytes()
        more = {"size": len(data), "checksum": "sha1$" + hashlib.sha1(data).hexdigest()}
        return {**value, **more, **({"secondaryFiles": described(value["secondaryFiles"])} if "secondaryFiles" in value else {})}
    if value.get("class") == "Directory":
        inside = [Path(value["path"]) / name for name in sorted(os.listdir(value["path"]))]
        entries = [{"class": "Directory" if path.is_dir() else "File", "path": str(path), "basename": path.name} for path in inside]
        return {**value, "listing": described(entries)}
    return {key: described(item) for key, item in value.items()}


def differs(wanted, found):
    """Return in what a result is not as wanted, empty if it is."""
    if wanted == "Any" or wanted == found:
        return ""
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        return next(filter(None, map(differs, wanted, found)), "")
    if not isinstance(wanted, dict) or not isinstance(found, dict):
        return f"{wanted!r} is {found!r}"[:300]
    for key, value in wanted.items():
        if key in {"location", "path"}:
            why = "" if value == "Any" or found.get("basename") == os.path.basename(value) else f"{value} is {found.get('basename')}"
        elif key in {"listing", "secondaryFiles"}:
            there = found.get(key, [])
            why = "" if len(there) == len(value) and all(any(not differs(one, other) for other in there) for one in value) else f"{key} is {there}"[:300]
        else:
            why = differs(value, found.get(key))
        if why:
            return f"{key}: {why}"
    return ""


def run(root, test):
    """Return what is wrong with one test, empty if nothing is."""
    with tempfile.TemporaryDirectory(prefix="kale-cwl-") as place:
        shutil.copytree(root / "tests", f"{place}/tests", symlinks=True)
        words = [sys.executable, "-c", _RUN, f"{place}/{test['tool']}", f"{place}/{test['job']}" if test["job"] else ""]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=120, cwd=place, stdin=subprocess.DEVNULL, check=False)
        except subprocess.TimeoutExpired:
            return "it took longer than 120 s"
        if done.returncode:
            return "" if test.get("should_fail") else done.stderr.strip().splitlines()[-1].replace(place, "")
        if test.get("should_fail"):
            return "it should have failed"
        return differs(test.get("output") or {}, described(json.loads(done.stdout.rpartition("@@@")[2])))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("which", nargs="?", default="workflow", help="a tag, such as workflow (the default) or command_line_tool, or an id")
    options = parser.parse_args()
    chosen = [test for test in tests(options.folder, "conformance_tests.yaml") if options.which in {*test.get("tags", []), test["id"]}]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as workers:
        found = list(workers.map(lambda test: run(options.folder, test), chosen))
    for test, why in zip(chosen, found, strict=True):
        if why:
            print(f"{test['id']} ({test['tool']}): {why}")
    counts = collections.Counter(not why for why in found)
    print(f"{counts[True]} of {len(found)} tests tagged {options.which!r} do what they should")


if __name__ == "__main__":
    main()
