"""What a cell uses and makes, by reading it."""

import pytest

from kale_magic.errors import StepSyntaxError
from kale_magic.model.names import analyse, assigned_names, free_names

FREE = {
    "x = 1\ny = x + z": "z",
    "y = [i * a for i in b if i > c]": "a b c",
    "y = [i for row in rows for i in row]": "rows",
    "d = {k: v for k, v in pairs}": "pairs",
    "g = (f(x) for x in xs)": "f xs",
    "def f(q):\n    return q + w + g()\ndef g(): return 1": "w",
    "def f(a, *b, c=d, **e): return a, b, c, e": "d",
    "def f():\n    x = 1\n    def g():\n        nonlocal x\n        x += 1\n        return zz\n    return g": "zz",
    "def f():\n    if late: pass\nlate = 1": "",
    "def f():\n    global t\n    t = 1\nf()\nprint(t)": "",
    "@deco\ndef f(): pass": "deco",
    "def f(a: T) -> U: pass": "T U",
    "from __future__ import annotations\ndef f(a: T) -> U: pass\nx: V = 1": "",
    "f = lambda a, b=d: a + b + h": "d h",
    "class A(Base):\n    u = 1\n    v = u\n    def m(self): return u": "Base u",
    "class A:\n    def m(self): return A": "",
    "class A:\n    x = [1]\n    y = [i for i in x]": "",
    "x += 1": "x",
    "x: int\nprint(x)": "x",
    "x: int = 1\nprint(x)": "",
    "if (n := 10) > 5: print(n)": "",
    "[y := f(x) for x in data]\nprint(y)": "f data",
    "match v:\n    case {'a': p, **r}: print(p, r)\n    case [k, *s]: print(k, s)\n    case Point(x=0) as q: print(q)": "v Point",
    "try:\n    1\nexcept E as e:\n    print(e)\nprint(e)": "E e",
    "try:\n    import m\nexcept ImportError:\n    m = None\nm": "",
    "try:\n    pass\nexcept* E as g:\n    print(g)": "E",
    "for i in r: pass\nprint(i)": "r",
    "for i in a:\n    s = s + i": "a s",
    "while t: t = f()": "t f",
    "with open(p) as fh, q as (a, b): a, b, fh": "p q",
    "async def f():\n    async with q as r: r\n    async for i in z: i": "q z",
    "await job": "job",
    "x = 1\ndel x\nprint(x)": "x",
    "if c:\n    x = 1\nprint(x)": "c",
    "x = 1\nif c:\n    del x\nprint(x)": "c",
    "import a.b, c as d\na, d": "",
    "import a.b as ab\na": "a",
    "from a import b as c\nc, b": "b",
    "a[i] = 3": "a i",
    "a.b = 3": "a",
    "a, *b = c\na, b": "c",
    "x = y = z": "z",
    "print(f'{a!r:>{w}}')": "a w",
    "display(In, Out, _, __, _3, _i2, get_ipython(), __name__, exit)": "",
    "sorted(range(len([])))": "",
    "import numpy as np\nnp.linspace(lo, hi)": "lo hi",
}


@pytest.mark.parametrize("code", FREE)
def test_free_names_follow_scope_and_order(code):
    assert set(free_names(code)) == set(FREE[code].split())


def test_first_use_gives_the_line():
    assert free_names("a = 1\n\nb = c + a\nd = c\ndef f():\n    return e") == {"c": 3, "e": 6}


@pytest.mark.parametrize(
    ("code", "free", "assigned"),
    [
        ("%matplotlib inline\nx = y", "y", "x"),
        ("!ls -l 'it''s\nx = y", "y", "x"),
        ('!echo "it\'s\nx = y', "y", "x"),
        ("files = !ls\nprint(files)", "", "files"),
        ("t = %timeit -o f()\nt", "f", "t"),
        ("%time y = g(3)\ny", "g", "y"),
        ("%timeit -n 10 g(z)", "g z", ""),
        ("foo?\nbar", "bar", ""),
        ("?foo\nbar", "bar", ""),
        ("for i in range(3):\n    !echo $i\n    x = i", "", "i x"),
        ("!ls \\\n  -l\nx = 1", "", "x"),
        ("%%time\nx = y", "y", "x"),
        ("x = (7\n  % y)", "y", "x"),
    ],
)
def test_ipython_lines_are_tolerated(code, free, assigned):
    names = analyse(code)
    assert set(names.free) == set(free.split())
    assert names.assigned == set(assigned.split())
    assert not names.is_open


@pytest.mark.parametrize(
    "code",
    [
        "from numpy import *\nsin(x)", "exec('x = 1')", "globals()['x'] = 1", "%run other.py", "%%bash\nls 'x",
        "get_ipython().push({'x': 1})", "locals().update(x=1)", "%%capture out\n%load x.py",
    ],
)  # fmt: skip
def test_cells_that_may_make_unseen_names_are_open(code):
    assert analyse(code).is_open


@pytest.mark.parametrize("code", ["vars(x)", "get_ipython().run_line_magic('matplotlib', 'inline')", "%config X.y = 1", "eval('1')"])
def test_harmless_looks_do_not_open_a_cell(code):
    assert not analyse(code).is_open


def test_assigned_names_are_those_of_the_top_level():
    code = "import a.b\ndef f():\n    inner = 1\nclass C:\n    attr = 1\nfor i in []: j = 1\n[k for k in []]\n"
    code += "try:\n    1\nexcept E as e:\n    pass\n(w := 2)"
    assert assigned_names(code) == {"a", "f", "C", "i", "j", "w"}


@pytest.mark.parametrize(
    ("code", "line", "column", "words"),
    [
        ("x = 1\nfoo(\ny = 2", 2, 4, "never closed"),
        ("x = 1\ny = = 2", 2, 5, "invalid syntax"),
        ("%time x\nif x:\npass", 3, 1, "indented block"),
        ("x = 'abc", 1, 5, "unterminated"),
        ("a = 1\nb\x00", 2, 2, "null"),
    ],
)
def test_syntax_errors_have_line_and_column(code, line, column, words):
    with pytest.raises(StepSyntaxError, match=words) as caught:
        analyse(code)
    assert (caught.value.line, caught.value.column) == (line, column)


def test_invalid_escape_is_no_error_here():
    assert analyse("x = '\\e'").assigned == {"x"}


def test_endless_nesting_is_an_error_of_the_cell():
    with pytest.raises(StepSyntaxError):
        analyse("(" * 5000 + ")" * 5000)
