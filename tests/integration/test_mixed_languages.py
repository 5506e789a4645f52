"""Python, bash and R in one workflow: values cross in declared forms, exactly, or it is said which can't and why."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from kale_magic.api import Workflow, connect
from kale_magic.errors import UsageError
from tests import steps

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kale_magic.api import Kale, Run

WAIT_S = 120.0
needs_r = pytest.mark.skipif(shutil.which("R") is None, reason="R is missing: make system-deps")
KERNELS = {
    "bash": [sys.executable, "-m", "bash_kernel", "-f", "{connection_file}"],
    "R": ["R", "--slave", "-e", "IRkernel::main()", "--args", "{connection_file}"],
    "python": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
}


@pytest.fixture
def kale() -> Iterator[Kale]:
    from kale_proxy.places import jupyter_data_dir

    with steps.private_jupyter(), connect() as kale:
        for language, argv in KERNELS.items():
            folder = jupyter_data_dir() / "kernels" / f"test-{language.lower()}"
            folder.mkdir(parents=True)
            (folder / "kernel.json").write_text(json.dumps({"argv": argv, "display_name": language, "language": language}))
        yield kale


def done(kale: Kale, workflow: Workflow, state: str = "completed") -> Run:
    run = kale.run(workflow.submit(client=kale.client, cache=False).name)
    assert run.wait(timeout=WAIT_S) == state, {name: step["reason"] for name, step in run.status()["steps"].items()}
    return run


MADE = """
import numpy as np, pandas as pd
number, text, truth, nothing, words, deep = 0.1, 'é "q" \\n', True, None, ['a', 'b'], {'x': [1, 2], 'y': {'z': 0.3}}
matrix, ints, big = np.arange(6.0).reshape(2, 3) / 7, np.array([1, -2, 3]), np.array([2**40, -1])
cube = np.arange(24, dtype='f4').reshape(2, 3, 4)
table = pd.DataFrame({'name': ['x', 'y,"z"'], 'v': [0.1, float('nan')], 'n': [1, 2]})
"""
SEEN = """
stopifnot(identical(number, 0.1), identical(text, 'é "q" \\n'), identical(truth, TRUE), is.null(nothing), identical(words, c('a', 'b')))
stopifnot(identical(deep$x, 1:2), identical(deep$y$z, 0.3))
stopifnot(all.equal(dim(matrix), 2:3), identical(matrix[2, 3], 5 / 7), identical(as.numeric(ints), c(1, -2, 3)), identical(big, c(2^40, -1)))
stopifnot(identical(dim(cube), c(2L, 3L, 4L)), cube[2, 3, 4] == 23, cube[1, 2, 1] == 4)
stopifnot(identical(table$name, c('x', 'y,"z"')), identical(table$v[1], 0.1), is.na(table$v[2]), identical(table$n, 1:2))
stopifnot(identical(n, 3L), identical(xs, c(1.5, 2)), identical(flag, FALSE), identical(who, "O'Neil"))
back_number <- number / 3; back_text <- text; back_words <- words; back_flag <- truth; back_list <- list(a = 1L, b = list('x', TRUE))
back_matrix <- matrix * 2; back_cube <- cube; back_gaps <- c(1, NaN, Inf)
back_table <- data.frame(name = c('p', 'q"r'), v = c(1 / 3, NA), k = c(1L, 2L), ok = c(TRUE, FALSE), stringsAsFactors = TRUE)
"""
NAMES = ["number", "text", "truth", "nothing", "words", "deep", "matrix", "ints", "big", "cube", "table"]
BACK = ["number", "text", "words", "flag", "list", "matrix", "cube", "gaps", "table"]


@pytest.mark.r
@needs_r
def test_values_go_from_python_to_r_and_back_exactly(kale, tmp_path):
    workflow = Workflow("mixed", folder=tmp_path)
    workflow.step("make", MADE, outputs=NAMES, formats={"table": "csv"})
    params = {"n": 3, "xs": [1.5, 2.0], "flag": False, "who": "O'Neil"}
    workflow.step("r", SEEN, kernel="test-r", inputs=NAMES, outputs=[f"back_{name}" for name in BACK], params=params)
    workflow.step("end", "seen = [back_number, back_words, back_list]\n", inputs=["back_number", "back_words", "back_list"], outputs=["seen"])
    run = done(kale, workflow)
    found = {name: run["r"].pull(f"back_{name}") for name in BACK}
    assert (found["number"], found["text"], found["words"], found["flag"]) == (0.1 / 3, 'é "q" \n', ["a", "b"], True)
    assert found["list"] == {"a": 1, "b": ["x", True]}
    assert np.array_equal(found["matrix"], np.arange(6.0).reshape(2, 3) / 7 * 2)
    assert np.array_equal(found["cube"], np.arange(24).reshape(2, 3, 4))
    assert found["gaps"][0] == 1
    assert math.isnan(found["gaps"][1])
    assert found["gaps"][2] == math.inf
    table = found["table"]
    assert isinstance(table, pd.DataFrame)
    assert table["name"].tolist() == ["p", 'q"r']
    assert table["v"][0] == 1 / 3
    assert math.isnan(table["v"][1])
    assert (table["k"].tolist(), table["ok"].tolist()) == ([1, 2], [True, False])
    assert run["end"].pull("seen") == [0.1 / 3, ["a", "b"], {"a": 1, "b": ["x", True]}]


@pytest.mark.r
@needs_r
def test_one_workflow_of_three_languages_with_a_sweep_that_r_gathers(kale, tmp_path):
    workflow = Workflow("mixed", folder=tmp_path)
    workflow.step("curve", "import numpy as np\ny = np.array([k, k + 0.5])\n", each={"k": [1, 2, 3]}, outputs=["y"], reuse_kernel=True)
    workflow.step("fit", "m <- sapply(y, mean); ks <- sapply(y_params, function(p) p$k); slope <- unname(coef(lm(m ~ ks))[2])\n", kernel="test-r", inputs=["y"], outputs=["m", "slope"])
    workflow.step("shell", 'echo "m is $m"; twice=$(python3 -c "print(2 * $slope)")\nprintf "a,b\\n1,2.5\\n" > $KALE_OUTPUTS/t.csv\n', shell=True, inputs=["m", "slope"], outputs=["twice", "t"], formats={"t": "csv"})
    workflow.step("bash", 'both="$slope and $(head -1 $t)"\nlist="[1, 2]"\n', kernel="test-bash", inputs=["slope", "t"], outputs=["both", "list"], params={"unused": "x y"})
    workflow.step("end", "last = (float(t.b[0]), both, list, twice)\n", inputs=["t", "both", "list", "twice"], outputs=["last"])
    run = done(kale, workflow)
    assert run["fit"].pull("m") == [1.25, 2.25, 3.25]
    assert run["fit"].pull("slope") == pytest.approx(1.0)
    assert run["shell"].logs() == "m is [1.25, 2.25, 3.25]\n"
    value, both, items, twice = run["end"].pull("last")
    assert (value, items) == (2.5, [1, 2])
    assert both.endswith(" and a,b")
    assert float(twice) == pytest.approx(2.0)


@pytest.mark.r
@needs_r
@pytest.mark.parametrize(
    ("made", "code", "options", "words"),
    [
        ("table = __import__('pandas').DataFrame({'a': [1]})\n", "x <- 1", {"inputs": ["table"]}, "is kept in Python's own form, which R can't read: declare one for it there, --formats table=csv"),
        ("table = 1\n", "x <- lm(dist ~ speed, cars)", {"outputs": ["x"]}, "`x` (lm) can't go to another language"),
        ("table = 1\n", "x <- 1; y <- NA", {"outputs": ["y"], "formats": {"y": "json"}}, "`y` (logical) can't be written as json"),
        ("table = 1\n", "x <- mean", {"outputs": ["x"], "formats": {"x": "csv"}}, "`x` (function) can't be written as csv: it is no table"),
        ("table = 1\n", "y <- 1", {"outputs": ["x"]}, "it declares the output `x` but its code never assigned it"),
        ("table = 1\n", "x <- data.frame(a = 1)", {"outputs": ["x"], "formats": {"x": "parquet"}}, "R lacks arrow"),
    ],
)
def test_what_r_cannot_take_or_give_is_said_clearly(kale, tmp_path, made, code, options, words):
    workflow = Workflow("mixed", folder=tmp_path)
    workflow.step("make", made, outputs=["table"])
    workflow.step("r", code + "\n", kernel="test-r", after=["make"], **options)
    run = done(kale, workflow, "failed")
    assert words in run["r"].reason
    assert "\n" not in run["r"].reason.strip()


@pytest.mark.parametrize(
    ("code", "form", "kind", "equal"),
    [
        ("import numpy as np\nx = {'a': np.float64(1.5), 'b': (1, np.arange(2))}\n", "json", dict, {"a": 1.5, "b": [1, [0, 1]]}),
        ("x = [[1, 2], [3, 4]]\n", "npy", np.ndarray, [[1, 2], [3, 4]]),
        ("x = [{'a': 1, 'b': 'q'}, {'a': 2, 'b': 'r'}]\n", "csv", pd.DataFrame, [[1, "q"], [2, "r"]]),
        ("import pandas\nx = pandas.DataFrame({'v': [1.5]}, index=pandas.Index(['k'], name='key'))\n", "csv", pd.DataFrame, [["k", 1.5]]),
    ],
)
@pytest.mark.parametrize("kernel", [None, "test-python"])
def test_a_declared_form_is_kept_by_python(kale, tmp_path, code, form, kind, equal, kernel):
    workflow = Workflow("mixed", folder=tmp_path)
    workflow.step("make", code, outputs=["x"], formats={"x": form}, **({"kernel": kernel} if kernel else {}))
    workflow.step("use", "same = x\n", inputs=["x"], outputs=["same"])
    run = done(kale, workflow)
    assert (run["make"].folder / "outputs" / f"x.{form}").exists()
    for value in (run["make"].pull("x"), run["use"].pull("same")):
        assert isinstance(value, kind)
        assert (value.to_numpy().tolist() if isinstance(value, pd.DataFrame) else value.tolist() if isinstance(value, np.ndarray) else value) == equal


@pytest.mark.parametrize(
    ("code", "form", "words"),
    [
        ("x = {1, 2}\n", "json", "`x` (set) can't be written as json: JSON has nothing like it"),
        ("x = float('nan')\n", "json", "JSON has no nan"),
        ("x = ['a']\n", "npy", "it is no array of numbers"),
        ("x = 5\n", "csv", "it is no table: make it a pandas DataFrame, a dict of lists, or a list of dicts"),
        ("import sys\nsys.modules['pyarrow'] = sys.modules['fastparquet'] = None\nx = [{'a': 1}]\n", "parquet", "Parquet by pyarrow, which is not installed: install it, or declare csv"),
        ("x = 5\n", "parquet", "it is no table: make it a pandas DataFrame"),
        ("import pandas as pd\nx = pd.DataFrame({'a': [1, 'q']})\n", "parquet", "can't be written as parquet: Arrow"),
    ],
)
def test_what_a_form_cannot_hold_fails_the_step_that_makes_it(kale, tmp_path, code, form, words):
    workflow = Workflow("mixed", folder=tmp_path)
    workflow.step("make", code, outputs=["x"], formats={"x": form})
    assert words in done(kale, workflow, "failed")["make"].reason


TABLE = """
import pandas as pd, numpy as np
t = pd.DataFrame({
    'f': [0.1, np.nan, np.inf], 'i8': np.array([1, -2, 3], 'i1'), 'u64': np.array([2**64 - 1, 0, 1], 'u8'), 's': ['é', None, 'q"'],
    'b': [True, False, True], 'when': pd.to_datetime(['2026-01-01', None, '2026-01-03T04:05:06.000007'], format='ISO8601').tz_localize('UTC'),
    'cat': pd.Categorical(['x', 'y', 'x']), 'some': pd.array([1, None, 3], dtype='Int64'), 'lists': [[1, 2], [], [3]], 'raw': [b'\\x00', b'', b'\\xff'],
}, index=pd.Index([10, 20, 30], name='key'))
"""


@pytest.mark.parametrize("options", [{}, {"kernel": "test-python"}, {"each": {"n": [1, 2]}}, {"each": {"n": [1, 2]}, "reuse_kernel": True}])
def test_a_table_keeps_its_types_through_parquet(kale, tmp_path, options):
    workflow = Workflow("mixed", folder=tmp_path)
    workflow.step("make", TABLE, outputs=["t"], formats={"t": "parquet"}, **options)
    one = "t[-1]" if "each" in options else "t"
    workflow.step("use", f"import hashlib\nt = {one}\nkinds = {{name: str(kind) for name, kind in t.dtypes.items()}}\nrows = len(t)\n", inputs=["t"], outputs=["t", "kinds", "rows"], formats={"t": "parquet"})
    run = done(kale, workflow)
    space: dict[str, Any] = {}
    exec(TABLE, space)
    expected = space["t"].reset_index()
    made = run["make[1]" if "each" in options else "make"].pull("t")
    for found in (made, run["use"].pull("t")):
        pd.testing.assert_frame_equal(found.drop(columns=["lists", "s"]), expected.drop(columns=["lists", "s"]))
        assert [list(items) for items in found["lists"]] == [[1, 2], [], [3]]
        assert [None if pd.isna(item) else item for item in found["s"]] == ["é", None, 'q"']
    kinds = run["use"].pull("kinds")
    assert (kinds["i8"], kinds["u64"], kinds["cat"], kinds["some"], kinds["b"]) == ("int8", "uint64", "category", "Int64", "bool")
    assert kinds["when"].endswith("UTC]")
    assert run["use"].pull("rows") == 3


def test_parquet_goes_between_python_bash_and_arrow_tables(kale, tmp_path):
    workflow = Workflow("mixed", folder=tmp_path)
    workflow.step("make", "import pyarrow as pa\nt = pa.table({'a': [1, 2], 'b': ['x', 'y']})\n", outputs=["t"], formats={"t": "parquet"})
    script = f'head -c 4 "$t"; echo\n{sys.executable} -c "import pandas as pd; d = pd.read_parquet(\'$t\'); d[\'c\'] = d.a * 1.5; d.to_parquet(\'$KALE_OUTPUTS/u.parquet\')"\n'
    workflow.step("sh", script, shell=True, inputs=["t"], outputs=["u"], formats={"u": "parquet"})
    workflow.step("end", "c, words = u.c.tolist(), u.b.tolist()\n", inputs=["u"], outputs=["c", "words"])
    run = done(kale, workflow)
    assert run["sh"].logs() == "PAR1\n"
    assert run["end"].pull("c", "words") == ([1.5, 3.0], ["x", "y"])


def test_parquet_that_is_damaged_or_cannot_be_read_here_is_said_in_a_sentence(kale, tmp_path):
    workflow = Workflow("mixed", folder=tmp_path)
    workflow.step("sh", "echo PAR1 > $KALE_OUTPUTS/t.parquet\n", shell=True, outputs=["t"], formats={"t": "parquet"})
    reason = done(kale, workflow, "failed")["sh"].reason
    assert reason.endswith("t.parquet is no Parquet file, or a part of one")
    workflow = Workflow("mixed", folder=tmp_path)
    workflow.step("make", "import pandas as pd\nt = pd.DataFrame({'a': [1]})\n", outputs=["t"], formats={"t": "parquet"})
    (tmp_path / "without").mkdir()
    for name in ("pyarrow", "fastparquet"):
        (tmp_path / "without" / f"{name}.py").write_text("raise ImportError('not here')\n")
    workflow.step("use", "1\n", inputs=["t"], kernel="test-python", env={"PYTHONPATH": str(tmp_path / "without")})
    reason = done(kale, workflow, "failed")["use"].reason
    assert "`t` is Parquet (" in reason
    assert "which is not installed here: install it, or declare --formats t=csv where it is made" in reason
    assert "\n" not in reason.strip()


@pytest.mark.r
@needs_r
def test_parquet_for_r_is_read_or_refused_with_the_way_out(kale, tmp_path):
    workflow = Workflow("mixed", folder=tmp_path)
    workflow.step("make", "import pandas as pd\nt = pd.DataFrame({'a': [1.5, 2.5]})\n", outputs=["t"], formats={"t": "parquet"})
    workflow.step("r", "s <- sum(t$a)\n", kernel="test-r", inputs=["t"], outputs=["s"])
    has_arrow = subprocess.run(["Rscript", "-e", "quit(status = !requireNamespace('arrow', quietly = TRUE))"], check=False, capture_output=True).returncode == 0
    run = done(kale, workflow, "completed" if has_arrow else "failed")
    if has_arrow:
        assert run["r"].pull("s") == 4.0
    else:
        assert "R lacks arrow, which reads Parquet: declare --formats NAME=csv where it is made" in run["r"].reason


def test_a_shell_step_that_writes_another_form_than_declared_fails(kale, tmp_path):
    workflow = Workflow("mixed", folder=tmp_path)
    workflow.step("make", "echo 1 > $KALE_OUTPUTS/x.json\n", shell=True, outputs=["x"], formats={"x": "csv"})
    assert "declares the output `x` as csv but made x.json" in done(kale, workflow, "failed")["make"].reason


def test_a_form_that_is_none_or_of_no_output_is_refused_when_it_is_declared(tmp_path: Path) -> None:
    def declare(**options: Any) -> None:
        Workflow("mixed", folder=tmp_path).step("make", "x = 1\n", outputs=["x"], **options)

    with pytest.raises(UsageError, match="--formats x=xlsx of step make is none of json, npy, csv, parquet"):
        declare(formats={"x": "xlsx"})
    with pytest.raises(UsageError, match="it has no output y"):
        declare(formats={"y": "csv"})
