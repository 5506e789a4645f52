"""Words of a line to values, by a magic's table.

A parser of our own instead of argparse: that one refuses values that begin with a dash, cannot take
``--params n=1 m=2`` before a positional, and words its errors for a shell.
"""

from __future__ import annotations

import difflib
import keyword
import math
import re
from types import SimpleNamespace
from typing import TYPE_CHECKING

from kale_magic.dsl.options import Kind, Option, Spec
from kale_magic.errors import StepSyntaxError, UsageError
from kale_magic.model.literals import literal_or_text, parse_each, to_literal
from kale_magic.model.words import is_quoted, split_commas, unquote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kale_magic.model.step import Axis

_BRACES = re.compile(r"(?<![$\\])\{[A-Za-z_][\w.]*(?:\[[^\]]*\])?(?:![rsa])?(?::[^{}]*)?\}")
_QUOTED_PARTS = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""")
_PAIR = re.compile(r"(?P<name>[^=\s'\"\[({]+)=(?P<value>.*)", re.DOTALL)
_MANY = {Kind.PAIRS, Kind.EACH, Kind.ENV}
_NO_LITERAL = re.compile(r"[\[({].*[\])}]", re.DOTALL)


def parse_words(magic: str, spec: Spec, words: Sequence[str]) -> SimpleNamespace:
    """Return the values of a line; raises as :func:`kale_magic.dsl.options.parse`."""
    return _Line(magic, spec, words).values()


class _Line:
    def __init__(self, magic: str, spec: Spec, words: Sequence[str]) -> None:
        self.magic = magic
        self.spec = spec
        self.words = list(words)
        self.options = {option.flag: option for option in spec.options}
        self.found = SimpleNamespace(**{option.attribute: _empty(option.kind) for option in spec.options})
        self.given: set[str] = set()

    def values(self) -> SimpleNamespace:
        for word in self.words:
            self.refuse_braces(word)
        plain: list[str] = []
        while self.words:
            word = self.words.pop(0)
            if word.startswith("-") and len(word) > 1:
                self.option(word)
            else:
                plain.append(word)
        self.positionals(plain)
        return self.found

    def error(self, message: str, hint: str = "") -> UsageError:
        return UsageError(f"{self.magic}: {message}", hint or f"{self.magic} -h lists what it takes.")

    def refuse_braces(self, word: str) -> None:
        if match := _BRACES.search(_QUOTED_PARTS.sub("", word)):
            name = re.split(r"[.\[!:]", match[0].strip("{}"))[0]
            raise StepSyntaxError(
                f"{match[0]} on the line of {self.magic} is not replaced: the step runs elsewhere.",
                f"Give it the value by --params {name}=... and use `{name}` in the cell.",
            )

    # positionals

    def positionals(self, words: list[str]) -> None:
        for positional in self.spec.positionals:
            attribute = positional.name.lower().partition("|")[0]
            if positional.is_rest:
                taken, words = [unquote(part) for word in words for part in split_commas(word)], []
                setattr(self.found, attribute, tuple(taken))
            else:
                taken = [unquote(words.pop(0))] if words else []
                setattr(self.found, attribute, taken[0] if taken else None)
            if positional.choices and taken and taken[0] not in positional.choices:
                close = difflib.get_close_matches(taken[0], positional.choices, n=1, cutoff=0.6)
                raise self.error(f"no {positional.name} {taken[0]!r}.", f"Did you mean {close[0]}?" if close else f"There are: {', '.join(positional.choices)}.")
            if positional.is_required and not taken:
                raise self.error(f"{positional.name} is missing ({positional.help}).")
        if words:
            raise self.error(f"{words[0]!r} is a word too many.", self.hint_for_extra(words[0]))

    def hint_for_extra(self, word: str) -> str:
        if f"--{word}" in self.options:
            return f"Write --{word}."
        if "=" in word:
            return f"Write --params {word}." if "--params" in self.options else ""
        return 'Put text with spaces in quotes: "...".' if self.given else ""

    # options

    def option(self, word: str) -> None:
        flag, equals, value = word.partition("=")
        option = self.options.get(flag)
        if option is None:
            close = difflib.get_close_matches(flag, self.options, n=1, cutoff=0.7)
            raise self.error(f"there is no option {flag}.", f"Did you mean {close[0]}?" if close else "")
        if option.name in self.given and option.kind not in {*_MANY, Kind.TEXTS, Kind.NAMES}:
            raise self.error(f"{flag} stands there twice.")
        self.given.add(option.name)
        if option.kind is Kind.FLAG:
            if equals:
                raise self.error(f"{flag} takes no value.")
            setattr(self.found, option.attribute, True)
            return
        words = self.arguments(option, value if equals else None)
        if not words:
            hint = f"Write {flag} {option.metavar}; a value that begins with a dash or # goes in quotes."
            raise self.error(f"{flag} needs a value.", hint)
        self.store(option, words)

    def arguments(self, option: Option, first: str | None) -> list[str]:
        taken = [first] if first else []
        while self.words and not self.words[0].startswith("-"):
            word = self.words[0]
            is_list_going_on = bool(taken) and (taken[-1].endswith(",") or word.startswith(","))
            is_pair = option.kind in _MANY and _PAIR.fullmatch(word) is not None
            if taken and not (option.kind is Kind.NAMES and is_list_going_on) and not is_pair:
                break
            taken.append(self.words.pop(0))
        return taken

    def store(self, option: Option, words: list[str]) -> None:
        text = unquote(words[0])
        old = getattr(self.found, option.attribute)
        value: object
        match option.kind:
            case Kind.NAMES:
                value = (*old, *(name for name in self.names(words) if name not in old))
            case Kind.TEXTS:
                value = (*old, text)
            case Kind.COUNT:
                value = self.count(option, text)
            case Kind.SECONDS:
                value = self.seconds(option, text)
            case Kind.MEMORY | Kind.WALLTIME:
                value = self.amount(option, text)
            case Kind.CHOICE:
                value = self.choice(option, text)
            case Kind.PAIRS:
                value = self.once(option, old, [self.parameter(option, word) for word in words])
            case Kind.ENV:
                pairs = [self.pair(option, word) for word in words]
                value = self.once(option, old, [(name, unquote(rest)) for name, rest in pairs])
            case Kind.EACH:
                axes = [self.axis(option, word) for word in words]
                value = tuple(self.once(option, {axis.name: axis for axis in old}, [(axis.name, axis) for axis in axes]).values())
            case _:
                value = text
        setattr(self.found, option.attribute, value)

    def names(self, words: list[str]) -> list[str]:
        whole = unquote(words[0]) if len(words) == 1 and is_quoted(words[0]) and "," in words[0] else " ".join(words)
        return list(dict.fromkeys(unquote(part) for part in split_commas(whole)))

    def count(self, option: Option, text: str) -> int:
        if not re.fullmatch(r"\d{1,9}", text) or int(text) < option.least:
            raise self.error(f"{option.flag} {text} is not a whole number from {option.least} on.")
        return int(text)

    def seconds(self, option: Option, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not (math.isfinite(value) and value >= 0):
            raise self.error(f"{option.flag} {text} is not a number of seconds.", f"Write {option.flag} 60.")
        return value

    def amount(self, option: Option, text: str) -> int:
        from kale_magic.model.resources import parse_memory, parse_walltime

        return parse_memory(text) if option.kind is Kind.MEMORY else parse_walltime(text)

    def choice(self, option: Option, text: str) -> str:
        if text not in option.choices:
            raise self.error(f"{option.flag} {text} is not known.", f"There is: {', '.join(option.choices)}.")
        return text

    def pair(self, option: Option, word: str) -> tuple[str, str]:
        match = _PAIR.fullmatch(word)
        if match is None:
            inner = _PAIR.fullmatch(unquote(word))
            if inner is None:
                raise self.error(f"{option.flag} {word} has no name and value.", f"Write {option.flag} {option.metavar}.")
            match = inner
        name = match["name"]
        if not (name.isidentifier() and name.isascii()):
            raise self.error(f"{name!r} in {option.flag} is no name.", "A name has letters, digits and _, and begins with a letter.")
        return name, match["value"]

    def parameter(self, option: Option, word: str) -> tuple[str, object]:
        name, text = self.pair(option, word)
        self.refuse_keyword(option, name)
        if not text:
            raise self.error(f"{option.flag} {name}= has no value.", f"Write {name}=10, or {name}='' for empty text.")
        value = literal_or_text(text)
        if isinstance(value, str) and _NO_LITERAL.fullmatch(text):
            hint = f"It is not run; write literals such as {name}=[1, 2], or {name}='...' if it is text."
            raise self.error(f"{option.flag} {name}={text} is no Python literal.", hint)
        return name, value

    def once(self, option: Option, old: dict[str, object], new: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(old)
        for name, value in new:
            if name in found:
                raise self.error(f"{option.flag} has {name} twice.")
            found[name] = value
        return found

    def axis(self, option: Option, word: str) -> Axis:
        name, text = self.pair(option, word)
        self.refuse_keyword(option, name)
        try:
            values = parse_each(text)
        except ValueError as exc:
            raise UsageError(f"{self.magic}: {option.flag} {name}: {exc}") from exc
        from kale_magic.model.step import Axis  # as above

        return Axis(name, values, text if text[0].isalpha() else to_literal(list(values)))

    def refuse_keyword(self, option: Option, name: str) -> None:
        if keyword.iskeyword(name):
            raise self.error(f"{option.flag} {name}: {name!r} is a word of Python and can be no variable.")


def _empty(kind: Kind) -> object:
    match kind:
        case Kind.FLAG:
            return False
        case Kind.TEXTS | Kind.NAMES | Kind.EACH:
            return ()
        case Kind.PAIRS | Kind.ENV:
            return {}
        case _:
            return None
