"""The kale YAML: exact, readable, and careful with files of unknown origin."""

import json

import jsonschema
import pytest
import yaml

from kale_magic.dsl.notebook import declarations_of
from kale_magic.errors import FormatError
from kale_magic.formats import native, to_notebook
from kale_magic.formats._yaml_read import MAX_CHARS, Document
from kale_magic.formats._yaml_write import write
from kale_magic.model import codec
from kale_magic.model.codec import workflow_to_dict
from kale_magic.model.step import Axis, Step, StepKind
from kale_magic.model.workflow import Workflow
from tests.unit.workflows import full_workflow, random_workflow


def one(code="x = 1\n", **options):
    return Workflow(name="w", steps={"a": Step(name="a", code=code, **options)})


def test_the_file_reads_well():
    text = native.dump(full_workflow())
    start = text.index("  curve:")
    assert text.startswith("schema: kale-magic.org/v1\nname: eos\n")
    assert text[start : text.index("  r:")] == (
        "  curve:\n"
        "    description: Energy against volume, $E(V)$.\n"
        "    after: [sh]\n"
        "    inputs: [sh.start]\n"
        "    outputs: [volumes, energies]\n"
        "    params:\n"
        "      n: 10\n"
        "      name: x y\n"
        '      pair: {literal: "(1, 2)"}\n'
        "      tiny: 1.0e-05\n"
        '      "no": "no"\n'
        "      deep: [1, {a: null}]\n"
        "    each:\n"
        "      metal: [Al, Cu]\n"
        "      t: linspace(0, 1, 3)\n"
        "    files_in: [data/*.csv]\n"
        "    files_out: [out/a b.txt]\n"
        "    resources:\n"
        "      nodes: 1\n"
        "      ntasks: 2\n"
        "      cpus: 4\n"
        "      gpus: 0\n"
        "      memory: 4GB\n"
        '      walltime: "01:30:00"\n'
        "      queue: short\n"
        "      account: a\n"
        "      qos: q\n"
        '      constraint: "c&d"\n'
        "      reservation: r\n"
        "      modules: [gcc/12]\n"
        "      env:\n"
        '        A: "1"\n'
        "      setup: [source x]\n"
        "      container: i/x.sif\n"
        '      native: ["#SBATCH --x=1"]\n'
        "    retries: 2\n"
        "    executor: local\n"
        '    tags: [slow, "a,b"]\n'
        "    code: |\n"
        "      volumes = [metal]\n"
        "      if t:\n"
        "      \tt = 0 \n"
        "\n"
        "      energies = 1\n"
    )


CODES = [
    "", "x", "x\n", "x\n\n\n", "\nx\n", "\n\n  x", "  x\n y\n", "\tx\n", " \tx\n", "x  \n\ty \n", "x\n   \ny\n", "x\n   ", "\n", "   ", " \n \n", "x\n# é ü 😀 \u00a0\n",
    "x\ry\n", "x\r\ny\n", "x\x85y\n", "x\u2028\n", "\ufeffx\n", "a\x00b\n", "---\n...\n", "- x: y\n  # c\n", "a: |\n  b\n", "!tag\n&a\n*a\n", "%YAML 1.1\n", "x" * 3000 + "\n", "é" * 200,
]  # fmt: skip


@pytest.mark.parametrize("code", CODES, ids=repr)
def test_code_comes_back_exactly(code):
    text = native.dump(one(code))
    assert native.load(text).steps["a"].code == code
    assert native.dump(native.load(text)) == text
    assert yaml.safe_load(text)["steps"]["a"]["code"] == code
    assert yaml.load(text, yaml.SafeLoader)["steps"]["a"]["code"] == code  # the parser in pure Python


@pytest.mark.parametrize("code", ["x = 1\n", "if x:\n\ty  \n\n# é😀\n", "  lead\n", "x\n\n\n", "x\ny"])
def test_code_of_several_lines_is_a_block(code):
    block = "\n".join(f"      {line}" if line else "" for line in code.rstrip("\n").split("\n"))
    assert block in native.dump(one(code)) or "\n" not in code


@pytest.mark.parametrize("seed", range(150))
def test_export_import_export_gives_the_same_bytes(seed):
    workflow = random_workflow(seed)
    text = native.dump(workflow)
    assert repr(native.load(text)) == repr(workflow)
    assert native.dump(native.load(text)) == text
    assert yaml.safe_load(text) == workflow_to_dict(workflow)


@pytest.mark.parametrize("seed", range(150))
def test_a_notebook_made_from_a_file_gives_the_same_file(seed):
    workflow = random_workflow(seed)
    notebook = json.loads(json.dumps(to_notebook(workflow)))
    assert native.dump(declarations_of(notebook).workflow) == native.dump(workflow)


def test_a_full_workflow_makes_a_valid_notebook_that_gives_it_back():
    import nbformat

    notebook = to_notebook(full_workflow())
    nbformat.validate(notebook)
    assert declarations_of(notebook).workflow == full_workflow()
    assert [cell["id"] for cell in notebook["cells"]] == [
        "workflow", "markdown", "common-common", "common-more", "markdown-sh", "step-sh", "step-curve", "step-r", "step-job", "show",
    ]  # fmt: skip
    assert to_notebook(full_workflow()) == notebook


def test_cells_of_a_notebook_read_as_a_person_would_write_them():
    step = Step(
        name="fit", code="a0 = 1\n", description="Fit of $\\nu$.", outputs=("a0",), params={"n": 10, "name": "x y"},
        each=(Axis("m", ("Al", "Cu"), "['Al', 'Cu']"), Axis("i", (0, 1), "range(2)")),
    )  # fmt: skip
    cells = [cell["source"] for cell in to_notebook(Workflow(name="eos", steps={"fit": step}))["cells"]]
    assert cells == [
        "%load_ext kale_magic\n%kale_workflow eos",
        "%%kale_step fit --outputs a0 --params n=10 name='x y' --each m=['Al', 'Cu'] --each i=range(2)\n'''Fit of $\\nu$.'''\na0 = 1",
        "%kale_show",
    ]


def test_ids_of_cells_stay_unique_and_short():
    names = ["a" * 63 + end for end in "bcd"]
    cells = to_notebook(Workflow(name="w", steps={name: Step(name=name, code="x\n") for name in names}))["cells"]
    ids = [cell["id"] for cell in cells]
    assert len(set(ids)) == len(ids)
    assert max(map(len, ids)) <= 64


def test_a_script_without_directives_can_be_no_cell():
    with pytest.raises(FormatError, match="Step a is a batch script without #SBATCH"):
        to_notebook(one("ls\n", kind=StepKind.SCRIPT))


def test_no_absolute_path_is_written():
    assert "directory: runs" in native.dump(Workflow(name="w", directory="runs"))
    assert "directory" not in native.dump(Workflow(name="w", directory="/home/me/runs"))
    assert "directory" not in native.dump(Workflow(name="w", directory="~/runs"))


AMBIGUOUS = [
    "yes", "No", "on", "true", "null", "~", "", "1", "1.5", "1e5", ".5", "0x1f", "0o17", "1_000", "12:30:00", "2026-11-22", ".inf", ".nan", "=", "<<", "- a", "a: b",
    "a #b", " a", "a ", "'a", '"a', "[a", "{a", "a]", "&a", "*a", "!a", "|", ">", "@a", "`a", "%a", "?", ":", "-", "---", "...", "4GB", "1GB ", "a\tb",
]  # fmt: skip


@pytest.mark.parametrize("text", AMBIGUOUS, ids=repr)
def test_text_stays_text_for_every_reader(text):
    data = {"k": text, "list": [text, {text: text}], text or "e": 1}
    written = write(data)
    assert Document(written, "f").data == data
    assert yaml.safe_load(written) == data


@pytest.mark.parametrize("value", [0, -1, 10**30, 1.0, 1e-5, 1e16, 1e300, 5e-324, -0.0, 0.1, True, False, None], ids=repr)
def test_numbers_stay_numbers_for_every_reader(value):
    written = write({"k": value, "l": [value]})
    for data in (Document(written, "f").data, yaml.safe_load(written)):
        assert repr(data) == repr({"k": value, "l": [value]})


def test_long_lists_are_wrapped_and_come_back():
    data = {"n": list(range(1000)), "t": ["long text of many words here" * 2] * 9, "d": [{"a": 1}] * 40}
    written = write(data)
    assert max(map(len, written.splitlines())) <= 110
    assert Document(written, "f").data == data == yaml.safe_load(written)


def test_what_people_write_by_hand_is_read():
    text = """
# a comment
schema: "kale-magic.org/v1"
name: 'eos'
steps:
  a: {code: "x = 1", outputs: [x], resources: {memory: 4096, walltime: 30}}
  b:
    params: {n: 1e3, m: -.5, on: yes, t: 10:30:00, d: 2026-11-22, z: ~}
    each: {k: range(2)}
    code: >-
      print(x)
"""
    steps = native.load(text).steps
    assert steps["a"].resources.walltime_s == 1800
    assert steps["b"].params == {"n": 1000.0, "m": -0.5, "on": "yes", "t": "10:30:00", "d": "2026-11-22", "z": None}
    assert steps["b"].code == "print(x)"
    assert steps["b"].points() == [{"k": 0}, {"k": 1}]


HEAD = "schema: kale-magic.org/v1\nname: w\nsteps:\n"
BAD = {
    "not yaml": ("a: b: c", 1, 5, "no YAML"),
    "tab": (HEAD + "\ta: 1", 4, 1, "by spaces, not by tabs"),
    "foreign": ("apiVersion: v1\nkind: Pod\n", 1, 1, "no Kale workflow.*begins with `schema: kale-magic.org/v1`"),
    "text": ("hello", 1, 1, "no Kale workflow"),
    "empty": ("", 1, 1, "no Kale workflow"),
    "version": ("schema: kale-magic.org/v2\nname: w\nsteps: {}\n", 1, 1, "this Kale reads 'kale-magic.org/v1'"),
    "twice": (HEAD + "  a:\n    code: x\n    code: y\n", 6, 5, "the key 'code' stands there twice"),
    "anchor": (HEAD + "  a: &x\n    code: x\n", 4, 6, "anchors and aliases"),
    "alias": (HEAD + "  a: {code: x}\n  b: *x\n", 5, 6, "anchors and aliases"),
    "tag": (HEAD + "  a: !!python/object/apply:os.system [ls]\n", 4, 6, "tags such as tag:yaml.org,2002:python/object/apply:os.system"),
    "local tag": (HEAD + "  a:\n    code: !x y\n", 5, 11, "tags such as !x"),
    "binary": (HEAD + "  a:\n    code: !!binary aGk=\n", 5, 11, "tags"),
    "documents": (HEAD + "  a: {code: x}\n---\nb: 1\n", 5, 1, "a second document"),
    "list key": ("? [a]\n: b\n", 1, 3, "nested|key"),
    "key in a step": (HEAD + "  a:\n    code: x\n    cpus: 3\n", 6, 5, "'cpus' is not known here; allowed are description, kind"),
    "code": (HEAD + "  a:\n    code: 3\n", 5, 5, "takes text, not 3"),
    "item": (HEAD + "  a:\n    code: x\n    after:\n      - b\n      - 3\n", 8, 9, "takes text, not 3"),
    "missing": (HEAD + "  a:\n    kind: shell\n", 4, 3, "no code"),
    "path": (HEAD + "  a:\n    code: x\n    files_in: [ok, ../x]\n", 6, 20, "'../x' is absolute or leaves"),
    "memory": (HEAD + "  a:\n    code: x\n    resources:\n      memory: 4XB\n", 7, 7, "4XB"),
    "merge": (HEAD + "  a:\n    <<: {code: x}\n    code: y\n", 5, 5, "'<<' is not known here"),
    "env name": (HEAD + "  a:\n    code: x\n    resources:\n      env: {A B: x}\n", 7, 7, "A B"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_name_line_and_column(case):
    text, line, column, words = BAD[case]
    with pytest.raises(FormatError, match=words) as caught:
        native.load(text, "eos.yaml")
    assert str(caught.value).startswith(f"eos.yaml, line {line}, column {column}: ")


def test_a_bomb_of_brackets_is_refused():
    with pytest.raises(FormatError, match="deep|depth"):  # ours, or that of a PyYAML which counts itself
        native.load(HEAD + "  a: " + "[" * 100_000)


def test_a_large_file_is_refused_unread(tmp_path):
    file = tmp_path / "big.yaml"
    with file.open("wb") as stream:
        stream.truncate(MAX_CHARS + 1)
    with pytest.raises(FormatError, match=r"big.yaml is larger than 32 MB"):
        native.read(file)
    with pytest.raises(FormatError, match="larger"):
        native.load("#" * (MAX_CHARS + 1))


def test_read_names_what_is_wrong_with_a_file(tmp_path):
    with pytest.raises(FormatError, match=r"none\.yaml can't be read: No such file"):
        native.read(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: \xe9t\xe9\n")
    with pytest.raises(FormatError, match=r"latin\.yaml is no text in UTF-8: byte 6 is 0xe9"):
        native.read(tmp_path / "latin.yaml")
    (tmp_path / "control.yaml").write_bytes(b"name: \x01\n")
    with pytest.raises(FormatError, match=r"control\.yaml.*no YAML"):
        native.read(tmp_path / "control.yaml")
    (tmp_path / "good.yaml").write_text(native.dump(full_workflow()), encoding="utf-8")
    assert native.read(tmp_path / "good.yaml") == full_workflow()


def test_a_truncated_file_is_refused_with_its_place_or_read():
    text = native.dump(full_workflow())
    refused = []
    for length in range(0, len(text), 3):
        try:
            native.load(text[:length], "f.yaml")
        except FormatError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert all(message.startswith("f.yaml, line ") for message in refused)


def test_the_schema_is_a_schema_and_agrees_with_what_is_written():
    jsonschema.Draft202012Validator.check_schema(native.schema())
    native.validator().validate(workflow_to_dict(full_workflow()))


@pytest.mark.parametrize(
    "change",
    [{"cpus": 1}, {"code": 1}, {"kind": "x"}, {"outputs": ["1x"]}, {"files_in": ["/x"]}, {"files_in": ["a/../b"]}, {"each": {"a": []}}, {"each": {"a": "f()"}}, {"retries": -1}],
)
def test_the_schema_itself_refuses_what_import_refuses(change):
    data = {"schema": "kale-magic.org/v1", "name": "w", "steps": {"a": {"code": "x", **change}}}
    assert not native.validator().is_valid(data)


def test_the_schema_knows_every_key_that_is_read():
    known = native.schema()
    assert set(known["$defs"]["step"]["properties"]) == set(codec._STEP_KEYS)
    assert set(known["$defs"]["resources"]["properties"]) == set(codec._RESOURCE_KEYS)
    assert set(known["properties"]) == {"schema", "name", *codec._TEXTS, "markdown", "common", "steps"}
