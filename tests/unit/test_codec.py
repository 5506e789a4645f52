"""A workflow as a dict of JSON values."""

import json

import pytest

from kale_magic.errors import FormatError, WorkflowError
from kale_magic.model.codec import SCHEMA_ID, workflow_from_dict, workflow_to_dict
from kale_magic.model.step import Axis, Step, StepKind
from kale_magic.model.workflow import Workflow
from tests.unit.workflows import full_workflow, random_workflow


def test_every_field_comes_back_through_json():
    workflow = full_workflow()
    assert workflow_from_dict(json.loads(json.dumps(workflow_to_dict(workflow)))) == workflow


@pytest.mark.parametrize("seed", range(100))
def test_any_workflow_comes_back_through_json(seed):
    workflow = random_workflow(seed)
    assert repr(workflow_from_dict(json.loads(json.dumps(workflow_to_dict(workflow))))) == repr(workflow)


def test_defaults_are_left_out():
    assert workflow_to_dict(Workflow(name="w", steps={"a": Step(name="a", code="x = 1\n")})) == {
        "schema": SCHEMA_ID,
        "name": "w",
        "steps": {"a": {"code": "x = 1\n"}},
    }


def test_keys_have_one_order_whatever_the_order_of_declaration():
    data = workflow_to_dict(full_workflow())
    assert list(data) == ["schema", "name", "description", "executor", "directory", "markdown", "common", "steps"]
    assert list(data["steps"]) == ["sh", "curve", "r", "job"]
    assert list(data["steps"]["curve"]) == [
        "description", "after", "inputs", "outputs", "params", "each", "files_in", "files_out", "resources", "retries", "executor", "tags",
        "code",
    ]  # fmt: skip


def test_values_that_json_has_not_are_marked():
    data = workflow_to_dict(full_workflow())["steps"]["curve"]
    assert data["params"]["pair"] == {"literal": "(1, 2)"}
    assert data["params"]["deep"] == [1, {"a": None}]
    assert data["each"] == {"metal": ["Al", "Cu"], "t": "linspace(0, 1, 3)"}
    assert data["resources"]["memory"] == "4GB"
    assert data["resources"]["walltime"] == "01:30:00"
    assert data["resources"]["gpus"] == 0


def test_a_source_that_does_not_give_the_values_is_not_kept():
    step = Step(name="a", code="x\n", each=(Axis("n", (1, 2), "range(5)"), Axis("m", (1,), "mine()")))
    assert workflow_to_dict(Workflow(name="w", steps={"a": step}))["steps"]["a"]["each"] == {"n": [1, 2], "m": [1]}


def test_a_parameter_without_literal_names_step_and_parameter():
    step = Step(name="a", code="x\n", params={"f": object()})
    with pytest.raises(WorkflowError, match="f of step a is a object"):
        workflow_to_dict(Workflow(name="w", steps={"a": step}))


def test_markdown_is_kept_in_the_order_of_the_steps():
    steps = {name: Step(name=name, code="x\n") for name in "ab"}
    data = workflow_to_dict(Workflow(name="w", steps=steps, markdown={"zz": "z", "b": "B", "a": "A", "": "top"}))
    assert data["markdown"] == {"workflow": "top", "steps": {"a": "A", "b": "B", "zz": "z"}}
    assert list(data["markdown"]["steps"]) == ["a", "b", "zz"]


def _with(**changes):
    return {"schema": SCHEMA_ID, "name": "w", "steps": {"a": {"code": "x", **changes}}}


BAD = {
    "no mapping": ([1], "takes names with values"),
    "other schema": ({**_with(), "schema": "kale-magic.org/v9"}, "schema: this Kale reads 'kale-magic.org/v1'"),
    "no name": ({"schema": SCHEMA_ID, "steps": {}}, "name: '' is no name"),
    "unknown key": ({**_with(), "stpes": {}}, "'stpes' is not known here; allowed are schema, name"),
    "step key": (_with(cpu=3), "steps.a.cpu: 'cpu' is not known here"),
    "no code": ({**_with(), "steps": {"a": {}}}, "steps.a: the step has no code"),
    "step name": ({**_with(), "steps": {"a/b": {"code": "x"}}}, "'a/b' is no name"),
    "case": ({**_with(), "steps": {"a": {"code": "x"}, "A": {"code": "x"}}}, "'A' and 'a' differ only in case"),
    "code": (_with(code=3), "steps.a.code: takes text, not 3"),
    "kind": (_with(kind="fortran"), "none of python, shell, kernel, notebook, script"),
    "kernel": (_with(kind="kernel"), "names its kernel"),
    "kernel of a shell step": (_with(kernel="ir", kind="shell"), "no other has one"),
    "list": (_with(after="b"), "steps.a.after: takes a list of text, not 'b'"),
    "item": (_with(tags=["a", 3]), "steps.a.tags.1: takes text, not 3"),
    "twice": (_with(outputs=["x", "x"]), "'x' stands there twice"),
    "output": (_with(outputs=["1x"]), "'1x' is no name of a variable"),
    "param": (_with(params={"class": 1}), "'class' is no name of a variable"),
    "literal": (_with(params={"n": {"literal": "f()"}}), "steps.a.params.n: 'f\\(\\)' is no literal"),
    "each": (_with(each={"n": 3}), "steps.a.each.n: takes a list"),
    "each call": (_with(each={"n": "open('x')"}), "not run"),
    "zip": (_with(zip="yes"), "takes true or false"),
    "lengths": (_with(each={"n": [1], "m": [1, 2]}, zip=True), "same length"),
    "points": (_with(each={"n": "range(1000)", "m": "range(1000)"}), "1000000 points"),
    "retries": (_with(retries=-1), "takes a whole number"),
    "bool": (_with(retries=True), "takes a whole number"),
    "absolute": (_with(files_in=["/etc/passwd"]), "'/etc/passwd' is absolute or leaves"),
    "leaves": (_with(files_out=["a/../../b"]), "leaves the workflow's folder"),
    "home": (_with(files_out=["~/b"]), "leaves the workflow's folder"),
    "resource": (_with(resources={"cpu": 1}), "allowed are nodes, ntasks, cpus"),
    "memory": (_with(resources={"memory": "4XB"}), "resources.memory: --memory '4XB'"),
    "walltime": (_with(resources={"walltime": "soon"}), "resources.walltime"),
    "env": (_with(resources={"env": {"A": 1}}), "env.A: takes text"),
    "common": ({**_with(), "common": {"common": 3}}, "common.common: takes text"),
    "markdown": ({**_with(), "markdown": {"steps": {"a b": "x"}}}, "markdown.steps.a b"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_names_its_place(case):
    data, words = BAD[case]
    with pytest.raises(FormatError, match=words):
        workflow_from_dict(data)


def test_numbers_for_memory_and_walltime_are_read_as_on_the_line():
    step = workflow_from_dict(_with(resources={"memory": 4096, "walltime": 30})).steps["a"]
    assert (step.resources.memory_bytes, step.resources.walltime_s) == (4 << 30, 1800)
    assert step.kind is StepKind.PYTHON


def test_a_kernel_is_enough_to_say_the_kind():
    data = workflow_to_dict(workflow_from_dict({"schema": "kale-magic.org/v1", "name": "w", "steps": {"a": {"kernel": "bash", "code": "ls\n"}}}))
    assert data["steps"]["a"]["kind"] == "kernel"
