"""A magic's line to words."""

import random

import pytest

from kale_magic.errors import UsageError
from kale_magic.model.words import quote, split, split_commas, unquote

LINES = {
    "a --each m=['Al', 'Cu'] --describe \"don't\"": ["a", "--each", "m=['Al', 'Cu']", "--describe", '"don\'t"'],
    "n=10 name='x y' d={'a': 1}  # comm'ent": ["n=10", "name='x y'", "d={'a': 1}"],
    "don't stop": ["don't", "stop"],
    "curve[metal=Cu]": ["curve[metal=Cu]"],
    "--native '#SBATCH x'": ["--native", "'#SBATCH x'"],
    "x=linspace(0, 1, 5) y": ["x=linspace(0, 1, 5)", "y"],
    "b=b'a b' r=r'\\d +'": ["b=b'a b'", "r=r'\\d +'"],
    "t='''a 'b' c''' u": ["t='''a 'b' c'''", "u"],
    "'it\\'s' x": ["'it\\'s'", "x"],
    "''": ["''"],
    " \t a   b\t": ["a", "b"],
    "": [],
    "a#b #c": ["a#b"],
    "a) ]": ["a)", "]"],
    "x=['a]', \"(\"]": ["x=['a]', \"(\"]"],
}


@pytest.mark.parametrize("line", LINES)
def test_split_respects_quotes_and_brackets(line):
    assert split(line) == LINES[line]


@pytest.mark.parametrize(("line", "words"), [("a 'b c", "The quote '"), ("x=[1, 2", r"'\[' is never closed"), ("f(", "never closed"), ('"a\\"', 'The quote "')])
def test_what_is_never_closed_is_named(line, words):
    with pytest.raises(UsageError, match=words):
        split(line)


@pytest.mark.parametrize(
    ("word", "text"),
    [("'a b'", "a b"), ('"a"', "a"), ("a", "a"), ("'$\\nu$'", "$\\nu$"), ("u'a\\nb'", "a\nb"), ("'it\\'s'", "it's"), ("'a'b", "'a'b"), ("'''x'y'''", "x'y"), ("'", "'")],
)
def test_unquote(word, text):
    assert unquote(word) == text


def test_any_text_can_be_quoted_and_stands_between_other_words():
    rng = random.Random(1)
    for _ in range(5000):
        text = "".join(rng.choice("ab'\"\\ #{}[]()-=,\n\tué\x00$\u2028") for _ in range(rng.randint(0, 8)))
        word = quote(text)
        line = f"x '''a''' {word} K={word} \"\"\"b\"\"\" '"[:-1]
        assert split(line) == ["x", "'''a'''", word, f"K={word}", '"""b"""'], text
        assert unquote(word) == text


def test_quote_adds_quotes_only_where_they_are_needed():
    assert [quote(text) for text in ("local", "a/b.c", "a b", "it's", "", "#x", "-x", "{x}")] == [
        "local", "a/b.c", "'a b'", '"it\'s"', "''", "'#x'", "'-x'", "'{x}'",
    ]  # fmt: skip


def test_split_commas_respects_quotes_and_brackets():
    assert split_commas("a, b,'c,d',[1,2],") == ["a", "b", "'c,d'", "[1,2]"]
    assert split_commas("") == []
