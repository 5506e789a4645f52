"""The demo as a person runs it: the driver's words, its files, and the page in a browser."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests.conftest import private_kale

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(400)  # make test runs a file in one worker: the demo runs once

_PROBE = """<script>window.addEventListener("load", () => {
  const box = e => { const r = e.getBoundingClientRect(); return [Math.round(r.width), Math.round(r.height)]; };
  const steps = [...document.querySelectorAll("[data-kale-step]")].map(
    e => ({name: e.dataset.kaleStep, state: e.dataset.kaleState, label: e.getAttribute("aria-label"), box: box(e)}));
  const pictures = [...document.querySelectorAll("img")].map(e => [e.naturalWidth, e.naturalHeight]);
  document.body.innerHTML = "<pre id=found></pre>";
  document.getElementById("found").textContent = JSON.stringify({steps, pictures});
});</script>"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Run the driver once; gives its completed process and its output folder."""
    out = tmp_path_factory.mktemp("demo") / "out"
    with private_kale():
        done = subprocess.run(
            [sys.executable, ROOT / "demo_notebooks" / "run_demo.py", "--out", out],
            capture_output=True, text=True, timeout=360, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done, out


def test_driver_tells_cells_steps_and_what_it_saw_inside_the_running_step(demo):
    done, _ = demo
    lines = done.stdout.splitlines()
    assert any("> cell [" in line and "%%kale_step fit" in line for line in lines)
    assert {f"curve[metal={m}]: completed" for m in ("Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au")} <= {
        line.partition("* ")[2] for line in lines
    }
    seen = re.search(r"< (\d+)% done, heating to \d00 K; now at \d+ K with a = 3\.6\d+ Å", done.stdout)
    assert seen
    assert 5 < int(seen[1]) < 100
    drawn = re.search(r"< drawn at time step (\d+); the loop went on and is at (\d+) now", done.stdout)
    assert drawn
    assert 480 <= int(drawn[1]) < int(drawn[2]) <= 960
    assert re.match(r"Demo done in \d+ s: run eos-\S+ completed, 4 steps", lines[-1])


def test_lattice_constants_and_bulk_moduli_are_those_known_for_this_potential(demo):
    done, _ = demo
    found = {m[1]: (float(m[2]), float(m[3])) for m in re.finditer(r"^  (\w\w) +([\d.]+) +[\d.]+ +\S+ +([\d.]+)", done.stdout, re.MULTILINE)}
    expected = {"Al": (3.994, 39.3), "Ni": (3.487, 174.5), "Cu": (3.590, 134.4), "Pd": (3.879, 179.0)}
    expected |= {"Ag": (4.064, 100.1), "Pt": (3.922, 277.9), "Au": (4.056, 173.7)}
    assert found.keys() == expected.keys()
    for metal, (a0, b0) in expected.items():
        assert found[metal] == (pytest.approx(a0, abs=0.002), pytest.approx(b0, rel=0.01)), metal
    alpha = float(re.search(r"expansion ([\d.]+)e-6", done.stdout)[1])
    assert 19 < alpha < 26


def test_every_job_leaves_an_executed_notebook_that_jupyter_reads(demo):
    _, out = demo
    (run,) = (out / ".kale" / "runs").iterdir()
    notebooks = sorted(run.glob("steps/**/step.ipynb"))
    assert len(notebooks) == 10
    for path in notebooks:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        assert any(cell.get("outputs") for cell in notebook.cells), path
    compare = nbformat.read(run / "steps" / "compare" / "step.ipynb", as_version=4)
    assert any("image/png" in output.get("data", {}) for cell in compare.cells for output in cell.get("outputs", ()))


def test_visits_leave_no_names_in_the_step(demo):
    _, out = demo
    notebook = nbformat.read(out / "01_equation_of_state.ipynb", as_version=4)
    (cell,) = [cell for cell in notebook.cells if cell.source == "%kale_vars expansion"]
    names = {line.split()[0] for line in cell.outputs[0].data["text/plain"].splitlines() if line.strip()}
    assert {"edge", "kelvin", "temperature", "lattice"} <= names
    assert not {"done", "n", "figure", "top"} & names


def test_exported_yaml_is_what_the_command_line_exports_from_the_file(demo, tmp_path):
    _, out = demo
    command = [sys.executable, "-m", "kale_magic.cli.main", "export", ROOT / "demo_notebooks" / "01_equation_of_state.ipynb"]
    subprocess.run([*command, "-o", tmp_path / "eos.yaml"], check=True, timeout=60)
    assert (tmp_path / "eos.yaml").read_bytes() == (out / "eos.yaml").read_bytes()


@pytest.mark.browser
def test_page_shows_the_workflow_and_the_figures_in_a_browser(demo, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs a browser: make system-deps (as root) installs chromium")
    _, out = demo
    page = tmp_path / "page.html"
    page.write_text((out / "01_equation_of_state.html").read_text().replace("</body>", _PROBE + "</body>"))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={tmp_path / 'profile'}"]
    dom = subprocess.run(
        [*command, "--virtual-time-budget=10000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=90, check=True, env={**os.environ, "HOME": str(tmp_path)},
    ).stdout  # fmt: skip
    found = json.loads(re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)[1].replace("&lt;", "<").replace("&amp;", "&"))
    shown = [step for step in found["steps"] if step["state"] == "completed"]
    assert {step["name"] for step in shown} == {"curve", "fit", "expansion", "compare"}
    assert all(min(step["box"]) > 10 and step["label"] == f"{step['name']}: completed" for step in shown)
    assert len(found["pictures"]) >= 2
    assert all(min(size) > 100 for size in found["pictures"])
