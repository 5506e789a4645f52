"""The notebook on a step: what a template becomes, which file it goes to, what magic and command line say."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import nbformat
import pytest

from kale_magic.api.find import Target
from kale_magic.cli.main import main
from kale_magic.errors import UsageError
from kale_magic.kernels import notebook as notebooks
from kale_magic.kernels.template import fill, language_of
from tests.unit.cli_shell import TerminalClient

WORKFLOW = """\
schema: kale-magic.org/v1
name: eos
markdown:
  steps:
    fit: More about $E(V)$.
steps:
  relax:
    outputs: [x]
    params: {n: 3}
    each:
      k: [1, 2]
    code: |
      x = n
  fit:
    description: "Fits the {{step}} curve."
    outputs: [a0]
    params: {order: 2, name: "it's | `odd`"}
    code: |
      a0 = x
  r:
    kernel: ir
    params: {n: 1}
    code: |
      1
  sh:
    kind: shell
    code: |
      true
"""
FACTS = {
    "address": "eos-1/fit", "run": "eos-1", "step": "fit", "workflow": "eos", "state": "running", "description": "", "code": "1",
    "folder": "/w/it's here", "parameters": {"n": 1}, "inputs": {}, "given": ("n",), "outputs": (),
}  # fmt: skip


def cell(source, kind="code", *tags):
    extra = {"outputs": [{"output_type": "stream", "name": "stdout", "text": "old"}], "execution_count": 7} if kind == "code" else {}
    return {"cell_type": kind, "id": "c", "metadata": {"tags": list(tags)}, "source": source, **extra}


def template(*cells, language="python"):
    return {"cells": list(cells), "metadata": {"kernelspec": {"name": "x", "display_name": "x", "language": language}}, "nbformat": 4, "nbformat_minor": 5}


def sources(made):
    return [one["source"] for one in made["cells"]]


# -- templates


def test_placeholders_are_text_in_markdown_and_literals_in_code():
    made = fill(template(cell("# {{step}} {{ given }} {{parameters}}", "markdown"), cell("open({{folder}}, {{given}})")), FACTS, "python")
    assert sources(made) == ["# fit `n` - `n` = `1`", 'open("/w/it\'s here", [\'n\'])']
    assert (made["cells"][1]["outputs"], made["cells"][1]["execution_count"]) == ([], None)


def test_other_braces_stay_and_facts_are_not_read_again():
    facts = FACTS | {"description": "see {{run}}"}
    assert sources(fill(template(cell("{{description}} $x^{{2}}$ {{nothing}}", "markdown")), facts, "python")) == ["see {{run}} $x^{{2}}$ {{nothing}}"]


def test_cells_about_what_the_step_lacks_are_left_out_and_other_tags_stay():
    made = fill(template(cell("a", "code", "if-given", "mine"), cell("b", "code", "if-inputs"), cell("c", "code", "if-else")), FACTS, "python")
    assert [(one["source"], one["metadata"]) for one in made["cells"]] == [("a", {"tags": ["mine"]}), ("c", {"tags": ["if-else"]})]


def test_kernel_of_another_language_gets_markdown_and_a_comment():
    made = fill(template(cell("# {{step}}", "markdown"), cell("## Log", "markdown", "with-code"), cell("print()")), FACTS, "R")
    assert sources(made)[0] == "# fit"
    assert "jupyter kale logs eos-1/fit" in sources(made)[1]
    assert sources(made)[2].startswith("# ")
    assert len(made["cells"]) == 3
    assert sources(fill(template(cell("x")), FACTS, "scala"))[1].startswith("// ")


def test_template_of_the_steps_own_language_keeps_its_cells():
    assert sources(fill(template(cell("readLines({{folder}})"), language="R"), FACTS, "r")) == ['readLines("/w/it\'s here")']
    assert sources(fill(template(cell("tail {{folder}} {{given}}"), language="bash"), FACTS, "bash")) == ["tail '/w/it'\"'\"'s here' n"]


def test_kales_own_template_is_a_valid_notebook_in_python():
    made = notebooks.read_template(None)
    nbformat.validate(nbformat.from_dict(made))
    assert language_of(made) == "python"


# -- the file


@pytest.fixture
def client(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("KALE_HOME", str(tmp_path / "home"))
    fake = TerminalClient(str(tmp_path))
    monkeypatch.setattr("kale_magic.client.Client.connect", lambda **_: fake)
    add(fake, "eos-1")
    return fake


def add(client, run, state="running"):
    points = {str(n): {"state": state} for n in range(2)}
    steps = {"relax": {"state": state, "points": points}, "fit": {"state": state}, "r": {"state": state}, "sh": {"state": state}}
    folder = Path(client.add(run, steps, state=state)["folder"])
    folder.mkdir(parents=True)
    (folder / "workflow.yaml").write_text(WORKFLOW)
    client.places[run, "sh", None] = {"kind": "shell"}
    client.places[run, "r", None] = {"kind": "kernel"}


def target(step="fit", run="eos-1", point=None):
    return Target(run=run, step=step, point=point, state="running", reason="", folder=Path(f"/w/{step}"), live=None, kind="python")


def opened(client, tmp_path, *args, **options):
    return notebooks.open_notebook(client, target(*args), folder=tmp_path, **options)


def test_notebook_shows_description_parameters_and_inputs_and_has_the_steps_kernel(client, tmp_path):
    made = opened(client, tmp_path)
    assert made.path == tmp_path / "fit.ipynb"
    book = nbformat.read(made.path, as_version=4)
    nbformat.validate(book)
    assert book.metadata.kernelspec == {"name": "kale-eos-1-fit", "display_name": "Kale: eos-1/fit", "language": "python"}
    top, given, now = (one.source for one in book.cells[:3])
    assert top.startswith("# fit\n\nFits the {{step}} curve.\n\nMore about $E(V)$.\n\n`eos-1/fit`, a step of workflow `eos`, was running")
    assert given.splitlines()[2:] == ["- `order` = `2`", "- `name` = ``\"it's | `odd`\"``", "- `x` from relax (a list, one of each of its 2 points)"]
    assert "for _name in ['order', 'name', 'x']:" in now
    for one in book.cells:
        if one.cell_type == "code":
            compile(one.source, "cell", "exec")


def test_notebook_of_the_same_step_is_kept_and_beside_another_it_gets_a_number(client, tmp_path):
    first = opened(client, tmp_path)
    first.path.write_text(first.path.read_text().replace("# Yours", "# Mine"))
    again = opened(client, tmp_path)
    assert (again.path, again.is_new) == (first.path, False)
    assert "# Mine" in first.path.read_text()
    add(client, "eos-2")
    other = opened(client, tmp_path, "fit", "eos-2")
    assert (other.path.name, other.is_new) == ("fit-2.ipynb", True)
    (tmp_path / "r.ipynb").symlink_to(tmp_path / "nowhere")
    assert opened(client, tmp_path, "r").path.name == "r-2.ipynb"


def test_point_of_a_sweep_has_its_own_values(client, tmp_path):
    made = opened(client, tmp_path, "relax", "eos-1", 1)
    assert made.path.name == "relax-point1.ipynb"
    assert "- `n` = `3`\n- `k` = `2`" in made.path.read_text().replace("\\n", "\n")


def test_o_is_a_file_or_a_folder_and_never_one_of_the_persons(client, tmp_path):
    assert opened(client, tmp_path, file=tmp_path / "look").path == tmp_path / "look.ipynb"
    assert not opened(client, tmp_path, file=tmp_path / "look.ipynb").is_new
    (tmp_path / "sub").mkdir()
    assert opened(client, tmp_path, file=tmp_path / "sub").path == tmp_path / "sub/fit.ipynb"
    (tmp_path / "mine.ipynb").write_text("{}")
    for name, words in (("mine.ipynb", "was not made for eos-1/fit"), ("x.py", r"Write .*x\.ipynb"), ("mine.ipynb/x.ipynb", "can't be written")):
        with pytest.raises(UsageError, match=words):
            opened(client, tmp_path, file=tmp_path / name)
    assert (tmp_path / "mine.ipynb").read_text() == "{}"


def test_template_of_ones_own_and_one_that_is_none(client, tmp_path, monkeypatch):
    mine = tmp_path / "mine.ipynb"
    mine.write_text(json.dumps(template({**cell("# mine: {{step}}", "markdown"), "id": "a"})))
    (tmp_path / "home").mkdir()
    (tmp_path / "home/config.toml").write_text(f"[open]\ntemplate = {str(mine)!r}\n")
    assert notebooks.template_file(None) == mine
    made = opened(client, tmp_path, template=notebooks.template_file(None))
    assert [one.source for one in nbformat.read(made.path, as_version=4).cells] == ["# mine: fit"]
    for text, words in (("{", "is no notebook"), (None, "can't be read")):
        mine.unlink()
        if text:
            mine.write_text(text)
        with pytest.raises(UsageError, match=words):
            opened(client, tmp_path, template=mine)
        mine.touch()


def test_language_is_that_of_the_installed_kernelspec(client, tmp_path, monkeypatch):
    folder = tmp_path / "data/kernels/ir"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps({"argv": ["R"], "display_name": "R", "language": "R"}))
    book = nbformat.read(opened(client, tmp_path, "r").path, as_version=4)
    assert book.metadata.kernelspec.language == "R"
    assert "print(" not in "".join(one.source for one in book.cells)


# -- magic and command line


def test_magic_shows_a_relative_link(notebook, client, tmp_path):
    notebook.session.client = client
    (tmp_path / "sub dir").mkdir()
    notebook.run("%kale_workflow eos --dir 'sub dir'")
    notebook.run("%kale_open eos-1/fit")
    shown = notebook.displays.seen[-1]["data"]
    assert shown["text/plain"] == "sub dir/fit.ipynb made for eos-1/fit; open it: jupyter lab 'sub dir/fit.ipynb'"
    assert '<a href="sub%20dir/fit.ipynb" target="_blank">' in shown["text/html"]
    notebook.run("%kale_open eos-1/fit")
    assert "is kept as it is" in notebook.displays.seen[-1]["data"]["text/plain"]
    notebook.run("%kale_open eos-1/fit -o other --write")
    assert Path("other.ipynb").exists()
    assert "exclude each other" in notebook.fail("%kale_open eos-1/fit --write --main")
    notebook.run("%kale_open -h")
    assert "-o FILE" in notebook.text
    assert "--template FILE" in notebook.text


def test_completion_offers_steps_and_options(notebook):
    from kale_magic.magics.complete import complete

    notebook.run("%%kale_step fit\n1")
    assert complete(notebook.session, "%kale_open f")[0] == ["fit"]
    assert "-o" in complete(notebook.session, "%kale_open fit -")[0]


def test_command_line_says_name_and_path(client, tmp_path, capsys):
    assert main(["open", "fit", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"name": "kale-eos-1-fit", "path": str(tmp_path / "fit.ipynb")}
    spec = json.loads((tmp_path / "data/kernels/kale-eos-1-fit/kernel.json").read_text())
    assert spec["argv"][0] == sys.executable
    assert main(["open", "fit"]) == 0
    assert capsys.readouterr().out == "fit.ipynb was made for eos-1/fit before and is kept as it is; open it: jupyter lab fit.ipynb\n"
    assert main(["open", "fit", "-o", "sub/new"]) == 0
    assert os.path.exists("sub/new.ipynb")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fti"], "Did you mean fit?"), (["relax"], "relax has 2 points"), (["sh"], "it has no kernel"),
        (["old/fit"], "its kernel is gone"), (["fit", "--write", "--main"], "not allowed with"),
        (["fit", "--template", "nowhere.ipynb"], "can't be read"), (["fit", "-o", "a.txt"], "is no notebook's name"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(client, capsys, words, said):
    add(client, "old", "completed")
    assert main(["open", *words]) == 2
    assert said in capsys.readouterr().err


def test_step_of_two_live_runs_is_ambiguous(client, capsys):
    add(client, "eos-2")
    assert main(["open", "fit"]) == 2
    assert "eos-1/fit" in capsys.readouterr().err
