"""A person's comments stay when Kale writes the file anew."""

from dataclasses import replace

import pytest

from kale_magic import Workflow
from kale_magic.formats import native
from tests.unit.workflows import full_workflow, random_workflow

TEXT = """\
# about all of it
schema: kale-magic.org/v1
name: eos  # the name
# the steps
steps:
  relax:
    outputs: [x]
    # how many
    params:
      n: 1  # few
    code: |  # the code
      x = n  # not a comment of the file
      # nor this
  # the second
  fit:  # beside
    resources:
      cpus: 2
    code: print(x)
# the end
"""


def test_comments_stay_where_they_are_when_nothing_changes():
    assert native.dump_over(native.load(TEXT), TEXT) == TEXT


def test_comments_go_with_their_keys_when_others_change(tmp_path):
    (tmp_path / "eos.yaml").write_text(TEXT)
    wf = Workflow.from_yaml(tmp_path / "eos.yaml")
    wf.step("relax", "x = n + 1\ny = 2\n", outputs=["x"], params={"n": 3})
    wf.step("new", "print(x)\nprint(2)")
    wf.to_yaml(tmp_path / "eos.yaml")
    text = (tmp_path / "eos.yaml").read_text()
    for line in ("# about all of it\nschema", "name: eos  # the name", "# the steps\nsteps:", "    # how many\n    params:", "n: 3  # few", "code: |  # the code", "  # the second\n  fit:  # beside"):
        assert line in text, line
    assert text.endswith("# the end\n")
    assert "not a comment of the file" not in text
    assert Workflow.from_yaml(tmp_path / "eos.yaml").model == wf.model


def test_comment_of_a_step_that_is_gone_goes_with_it():
    model = native.load(TEXT)
    text = native.dump_over(replace(model, steps={"relax": model.steps["relax"]}), TEXT)
    assert "the second" not in text
    assert "# how many" in text


@pytest.mark.parametrize("seed", range(40))
def test_text_with_comments_is_the_same_workflow(seed):
    workflow = full_workflow() if not seed else random_workflow(seed)
    lines = native.dump(workflow).split("\n")
    commented = "# one\n" + "\n".join(lines) + "# two\n"
    text = native.dump_over(workflow, commented)
    assert native.load(text) == native.load("\n".join(lines))
    assert text.startswith("# one\n")
    assert native.dump_over(workflow, text) == text


def test_what_is_no_workflow_is_written_over():
    assert native.dump_over(native.load(TEXT), "# a note: [\n") == native.dump(native.load(TEXT))
    assert native.dump_over(native.load(TEXT), "other: 1 # x\n") == native.dump(native.load(TEXT))
