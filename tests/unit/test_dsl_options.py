"""The lines of the magics: what they give, and the one sentence about what is wrong."""

import pytest

from kale_magic.dsl.options import OPTIONS, SPECS, HelpRequested, Kind, help_text, key_of, option_names, parse
from kale_magic.errors import StepSyntaxError, UsageError
from kale_magic.model.step import Axis


def step(line):
    return parse("step", line, is_cell=True)


def test_the_interfaces_line():
    given = step(
        "fit --after A,B --inputs x,up.y --outputs u,v --formats u=csv --params n=10 name='x y' --each p=range(2) --zip --files-in data/*.csv "
        "--files-out 'out/a b.csv' --nodes 2 --ntasks 4 --cpus 8 --gpus 0 --memory 4GB --walltime 00:30:00 --queue Q --account A "
        "--qos q --constraint C --reservation R --native '#SBATCH --x' --modules m1,m2 --env K=V L='a b' --setup 'source x' "
        "--container x.sif --retries 3 --hold 30m --hold-on-failure 2h --warn 5m --no-cache --reuse-kernel --gate --executor local --tags t1,t2 --run"
    )
    assert vars(given) == {
        "name": "fit", "after": ("A", "B"), "inputs": ("x", "up.y"), "outputs": ("u", "v"), "formats": {"u": "csv"}, "params": {"n": 10, "name": "x y"},
        "each": (Axis("p", (0, 1), "range(2)"),), "zip": True, "files_in": ("data/*.csv",), "files_out": ("out/a b.csv",),
        "kernel": None, "shell": False, "nodes": 2, "ntasks": 4, "cpus": 8, "gpus": 0, "memory": 4 << 30, "walltime": 1800,
        "queue": "Q", "account": "A", "qos": "q", "constraint": "C", "reservation": "R", "native": ("#SBATCH --x",),
        "modules": ("m1", "m2"), "env": {"K": "V", "L": "a b"}, "setup": ("source x",), "container": "x.sif", "retries": 3, "executor": "local",
        "gate": True, "gate_release": False, "notebook": None, "no_cache": True, "reuse_kernel": True, "hold": 1800, "hold_on_failure": 7200, "warn": 300,
        "tags": ("t1", "t2"), "run": True,
    }  # fmt: skip


def test_what_is_not_given_is_empty():
    given = step("fit")
    assert (given.after, given.params, given.each, given.cpus, given.run) == ((), {}, (), None, False)


@pytest.mark.parametrize("line", ["--outputs a fit", "fit --outputs a", "--outputs=a fit", "'fit' --outputs 'a'"])
def test_options_stand_anywhere(line):
    assert (step(line).name, step(line).outputs) == ("fit", ("a",))


@pytest.mark.parametrize("line", ["fit --outputs a,b", "fit --outputs a, b", "fit --outputs a , b", "fit --outputs a --outputs b", "fit --outputs 'a,b'", "--outputs a, b fit"])
def test_lists_forgive_spaces(line):
    assert step(line).outputs == ("a", "b")
    assert step(line).name == "fit"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10), ("1e-3", 0.001), ("-1", -1), ("'10'", "10"), ("Al", "Al"), ("[1, 'a b']", [1, "a b"]), ("(1, 2)", (1, 2)), ("{'a': {'b': 1}}", {"a": {"b": 1}}),
        ("{1, 2}", {1, 2}), ("True", True), ("None", None), ("1+2j", 1 + 2j), ("b'x'", b"x"), ("a/b.csv", "a/b.csv"), ("08:30", "08:30"), ("''", ""), ("'{x}'", "{x}"), ("$HOME/x", "$HOME/x"),
        ("a=b", "a=b"), ('"don\'t"', "don't"),
    ],
)  # fmt: skip
def test_params_are_literals_where_they_parse_else_text(text, value):
    given = step(f"fit --params p={text} q=1")
    assert given.params == {"p": value, "q": 1}
    assert type(given.params["p"]) is type(value)


def test_each_keeps_an_expression_and_normalises_a_list():
    given = step("fit --each m=['Al','Cu'] t=linspace(0, 1, 3) --each n=(1,2)")
    assert given.each == (
        Axis("m", ("Al", "Cu"), "['Al', 'Cu']"), Axis("t", (0.0, 0.5, 1.0), "linspace(0, 1, 3)"), Axis("n", (1, 2), "[1, 2]"),
    )  # fmt: skip


BAD = {
    "": "NAME is missing",
    "fit extra": "'extra' is a word too many",
    "fit n=3": "'n=3' is a word too many. Write --params n=3.",
    "fit outputs": "Write --outputs.",
    "fit --outptus a": "no option --outptus. Did you mean --outputs?",
    "fit --out a": "no option --out",
    "fit -x": "no option -x",
    "fit --gated x": "no option --gate",
    "fit --outputs": "--outputs needs a value",
    "fit --native #SBATCH": "--native needs a value. Write --native '#SBATCH line'",
    "fit --cpus x": "--cpus x is not a whole number from 1 on",
    "fit --cpus 0": "from 1 on",
    "fit --cpus -1": "--cpus needs a value",
    "fit --cpus 1.5": "not a whole number",
    "fit --cpus 1 --cpus 2": "--cpus stands there twice",
    "fit --zip=yes": "--zip takes no value",
    "fit --params n": "--params n has no name and value",
    "fit --params 1x=3": "'1x' in --params is no name",
    "fit --params a.b=3": "'a.b' in --params is no name",
    "fit --params class=3": "'class' is a word of Python",
    "fit --params n=": "n= has no value",
    "fit --params m=[a,b]": "m=[a,b] is no Python literal",
    "fit --each n": "no name and value",
    "fit --each n=5": "5 is one number, not a list. Write range(5)",
    "fit --each n=[f(x)]": "no list of literals",
    "fit --each n=open('x')": "only range, linspace and logspace are known",
    "fit --each n=range(2) n=range(3)": "--each has n twice",
    "fit --params n=1 --params n=2": "--params has n twice",
    "fit --env A=1 A=2": "--env has A twice",
    "fit --env A B=1": "--env A has no name and value",
    "fit --describe x": "no option --describe",
    "fit 'a": "The quote ' is never closed",
    "fit --each m=['Al'": "'[' is never closed",
}


@pytest.mark.parametrize("line", BAD)
def test_mistakes_are_one_sentence_of_usage(line):
    with pytest.raises(UsageError) as caught:
        step(line)
    assert BAD[line] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("line", "words"), [("fit --memory 4XB", "--memory '4XB'"), ("fit --walltime soon", "--walltime 'soon'"), ("fit --memory 0", "amount"), ("fit --walltime 0", "time")])
def test_memory_and_walltime_say_their_forms(line, words):
    with pytest.raises(StepSyntaxError, match=words):
        step(line)


@pytest.mark.parametrize("line", ["fit --params n={n}", "fit --cpus {n}", "{n}", "fit --params n={n:.2f}", "fit --each m={n}", "fit --params n=[{n}]", "fit --params n={n.a} m=1", "fit --params p=x/{n}/y"])
def test_braces_left_on_the_line_point_to_params(line):
    with pytest.raises(StepSyntaxError, match=r"\{n.*is not replaced.*--params n=\.\.\. and use `n`"):
        step(line)


def test_dollar_braces_and_quoted_braces_are_left_alone():
    given = step("fit --setup 'f() { ls; }; echo ${HOME} {x}' --env A=${HOME} --params d={'a': 1} e={} f={1}")
    assert given.setup == ("f() { ls; }; echo ${HOME} {x}",)
    assert given.env == {"A": "${HOME}"}
    assert given.params == {"d": {"a": 1}, "e": {}, "f": {1}}


def test_other_magics():
    assert vars(parse("pull", "fit x y --as a,b")) == {"step": "fit", "x": ("x", "y"), "as_": ("a", "b")}
    assert vars(parse("pull", "fit --as a x")) == {"step": "fit", "x": ("x",), "as_": ("a",)}
    assert vars(parse("wait", "--timeout 2.5 fit[0]")) == {"run": "fit[0]", "timeout": 2.5}
    assert vars(parse("cancel", "eos-1/fit[metal=Al]")) == {"step": "eos-1/fit[metal=Al]"}
    assert parse("submit", "--from a --to b,c --params n=3  # a live DAG").from_ == ("a",)
    assert parse("submit", "a --cpus 2", is_cell=True).name == "a"
    assert parse("workflow", "").name is None
    assert parse("%%kale_step", "a", is_cell=True).name == "a"
    assert vars(parse("attach", "fit --timeout 0 --write", is_cell=True)) == {"step": "fit", "timeout": 0.0, "write": True, "main": False, "rank": None, "host": None}
    assert vars(parse("attach", "fit --write")) == {"step": "fit", "write": True, "main": False, "host": None}


@pytest.mark.parametrize(
    ("magic", "line", "words"),
    [
        ("export", "f --format doc", "--format doc is not known. There is: kale, cwl, snakemake, fireworks, wfformat"),
        ("wait", "--timeout soon", "not a number of seconds"),
        ("wait", "--timeout -1", "needs a value"),
        ("wait", "--timeout nan", "not a number"),
        ("pull", "fit", "x is missing"),
        ("submit", "fit", "'fit' is a word too many"),
        ("show", "x", "%kale_show: 'x' is a word too many"),
        ("attach", "fit --timeout 3", "no option --timeout"),
    ],
)
def test_mistakes_on_other_lines(magic, line, words):
    with pytest.raises(UsageError) as caught:
        parse(magic, line)
    assert words in str(caught.value)


@pytest.mark.parametrize("key", SPECS)
def test_each_magic_has_help_that_tells_every_option(key):
    magic, is_cell = key.removesuffix("_cell").removesuffix("_line"), not key.endswith("_line") and (key.endswith("_cell") or SPECS[key].sign == "%%")
    assert key_of(magic, is_cell=is_cell) == key
    with pytest.raises(HelpRequested) as caught:
        parse(magic, "--nonsense x -h", is_cell=is_cell)
    text = str(caught.value)
    assert text == help_text(key)
    for option in OPTIONS[key]:
        assert f"  {option.flag}" in text
        assert option.help in text
        assert option.kind in Kind
    assert option_names(magic, is_cell=is_cell) == [option.flag for option in OPTIONS[key]]


def test_what_comes_later_is_not_offered():
    later = {"--share"}
    assert not later & {option.flag for options in OPTIONS.values() for option in options}
