"""Values as text: exact, and never run."""

import ast
import math

import numpy as np
import pytest

from kale_magic.errors import WorkflowError
from kale_magic.model.literals import (
    decode_value,
    encode_value,
    from_literal,
    literal_or_text,
    parse_each,
    plain,
    to_literal,
)
from kale_proxy.spec import read_literal

VALUES = [
    None, True, 0, -3, 10**40, 1.5, -0.0, 1e300, 5e-324, math.inf, -math.inf, math.nan, 2j, complex(-0.0, 1), complex(1, -0.0),
    complex(math.inf, -2), complex(0, math.nan), "", "it's \"x\"\n\\", "\ud800", b"\x00'", (), (1,), (1, (2, "a")), [], [1, [2.5]], {}, {"a": (1, 2)},
    {1: 2}, {"literal": "x"}, set(), {3}, {"a": [None, {"b": {1}}]}, ...,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_every_literal_comes_back_exactly(value):
    assert repr(from_literal(to_literal(value))) == repr(value)
    assert repr(decode_value(encode_value(value))) == repr(value)


@pytest.mark.parametrize("value", [v for v in VALUES if "nan" not in repr(v)], ids=repr)
def test_python_itself_reads_the_text(value):
    assert ast.literal_eval(to_literal(value)) == value


@pytest.mark.parametrize("value", [v for v in VALUES if "-0j" not in repr(v) and "(-0+" not in repr(v)], ids=repr)
def test_the_worker_reads_the_text(value):
    assert repr(read_literal(to_literal(value))) == repr(value)


def test_a_bare_nan_on_the_line_is_text_as_it_is_to_python():
    assert literal_or_text("nan") == "nan"
    assert literal_or_text("-inf") == "-inf"
    assert literal_or_text("infra") == "infra"


def test_json_values_stay_natural_and_others_are_marked():
    assert encode_value({"a": [1, 2.5, "x", None, True]}) == {"a": [1, 2.5, "x", None, True]}
    assert encode_value((1, 2)) == {"literal": "(1, 2)"}
    assert encode_value([math.inf]) == {"literal": "[1e999]"}
    assert encode_value({"literal": "x"}) == {"literal": "{'literal': 'x'}"}


def test_numpy_scalars_become_numbers():
    value = plain([np.float64(0.5), np.int32(3), np.bool_(True), np.str_("a")])
    assert value == [0.5, 3, True, "a"]
    assert [type(item) for item in value] == [float, int, bool, str]


def test_a_value_without_literal_names_itself():
    with pytest.raises(WorkflowError, match=r"n of step a is a object.*--outputs"):
        encode_value(object(), "n of step a")


@pytest.mark.parametrize("text", ["x", "f()", "[x]", "1 + 1", "{**a}", "open('f')", "set([1])", "__import__('os')", "'a' 'b' +", "(" * 500, "[" * 80 + "]" * 80])
def test_what_is_no_literal_is_refused(text):
    with pytest.raises(ValueError, match=r"literal|deep"):
        from_literal(text)


def test_text_that_does_not_parse_stays_text():
    assert literal_or_text("Al") == "Al"
    assert literal_or_text("10") == 10
    assert literal_or_text("'10'") == "10"
    assert literal_or_text("08") == "08"
    assert literal_or_text("os.getcwd()") == "os.getcwd()"


@pytest.mark.parametrize(
    ("start", "stop", "num", "endpoint"),
    [(0, 1, 11, True), (0.1, 0.7, 7, True), (3.4, 4.3, 9, False), (-5, 5, 1, True), (1, 1, 4, True), (2, -2, 13, True), (1e-300, 2e-300, 50, True), (0, 1, 1, False)],
)
def test_linspace_is_numpys(start, stop, num, endpoint):
    values = parse_each(f"linspace({start}, {stop}, {num}, endpoint={endpoint})")
    assert list(values) == np.linspace(start, stop, num, endpoint=endpoint).tolist()
    assert all(type(value) is float for value in values)


def test_linspace_and_logspace_have_numpys_defaults():
    assert list(parse_each("np.linspace(0, 1)")) == np.linspace(0, 1).tolist()
    assert parse_each("logspace(-3, 0, 4)") == pytest.approx(np.logspace(-3, 0, 4).tolist(), rel=1e-15)
    assert parse_each("logspace(0, 3, num=4, base=2)") == (1.0, 2.0, 4.0, 8.0)


def test_ranges_and_lists():
    assert parse_each("range(3)") == (0, 1, 2)
    assert parse_each("range(5, 0, -2)") == (5, 3, 1)
    assert parse_each("['Al', 'Cu']") == ("Al", "Cu")
    assert parse_each("[(1, 2), None]") == ((1, 2), None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("5", "one number.*range"),
        ("[]", "no values"),
        ("range(0)", "no values"),
        ("'abc'", "no list"),
        ("{1, 2}", "no list"),
        ("[f(x)]", "no list of literals"),
        ("[x for x in y]", "no list of literals"),
        ("arange(3)", "not run"),
        ("os.system('x')", "not run"),
        ("range(10**9)", "literal"),
        ("range(1000000000)", "at most"),
        ("linspace(0, 1, 1000000000)", "points"),
        ("range(1.5)", "range"),
        ("range()", "range"),
        ("range(1, 2, 0)", "range"),
        ("linspace(0)", "linspace"),
        ("linspace(0, 1, -3)", "no values"),
        ("linspace(a, 1)", "literal"),
        ("range(*[1])", "literal"),
        ("range(**{'a': 1})", "range"),
        ("[1,", "can't be read"),
    ],
)
def test_bad_sweeps_say_what_is_allowed(text, words):
    with pytest.raises(ValueError, match=words):
        parse_each(text)
