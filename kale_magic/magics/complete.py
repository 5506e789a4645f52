"""Tab after a Kale magic: its options, this workflow's steps, the runs of the folder.

A version 2 matcher of IPython that keeps the others quiet on these lines. It asks the manager only where a
run or a point may stand, never starts one, and gives up after a moment.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher

from kale_magic.errors import KaleError
from kale_magic.magics.commands import BY_NAME, COMMANDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kale_magic.dsl.options import Option
    from kale_magic.magics.session import KaleMagics

_LINE = re.compile(r"\s*(?P<sign>%%?)kale(?:_(?P<name>\w*)|\s+(?P<word>\w*))(?P<rest>.*)")
_TOKEN = re.compile(r"[^\s]*$")
_MANAGER_S = 0.5
_STEP_LISTS = {"--after", "--only", "--from", "--to"}
_RUN_OPTIONS = {"--run"}


def make_matcher(session: KaleMagics) -> Callable[[CompletionContext], SimpleMatcherResult]:
    """Return the matcher of one notebook."""

    @context_matcher(identifier="kale", priority=100)  # type: ignore[untyped-decorator] # IPython is not typed
    def kale_matcher(context: CompletionContext) -> SimpleMatcherResult:
        found, fragment = complete(session, context.text_until_cursor)
        if found is None:
            return SimpleMatcherResult(completions=[], suppress=False)
        words = [SimpleCompletion(text=word, type="kale") for word in found]
        return SimpleMatcherResult(completions=words, matched_fragment=fragment, suppress=True, ordered=True)

    matcher: Callable[[CompletionContext], SimpleMatcherResult] = kale_matcher
    return matcher


def complete(session: KaleMagics, text: str) -> tuple[list[str] | None, str]:
    """Return what can stand at the end of ``text``, and the part of it that it replaces; None: no Kale magic.

    Parameters
    ----------
    session : KaleMagics
        The notebook.
    text : str
        The line up to the cursor.
    """
    match = _LINE.fullmatch(text)
    if match is None:
        return None, ""
    token_match = _TOKEN.search(text)
    token = token_match[0] if token_match else ""
    is_cell = match["sign"] == "%%"
    name = match["name"] if match["name"] is not None else match["word"]
    if not match["rest"]:  # the command itself is being typed
        names = [c.name for c in COMMANDS if (c.cell if is_cell else c.line)]
        if match["name"] is not None:
            return _starting([f"{match['sign']}kale_{word}" for word in names], token), token
        return _starting(names, token), token
    if name not in BY_NAME:
        return [], token
    return _words(session, name, match["rest"][: -len(token) or None].split(), token, is_cell=is_cell)


def _words(
    session: KaleMagics, name: str, before: list[str], token: str, *, is_cell: bool
) -> tuple[list[str], str]:
    from kale_magic.dsl.options import SPECS, key_of

    spec = SPECS[key_of(name, is_cell=is_cell)]
    if token.startswith("-"):
        return _starting([option.flag for option in spec.options], token), token
    last = before[-1] if before else ""
    option = next((option for option in spec.options if option.flag == last), None)
    if last in _STEP_LISTS or last == "--inputs":
        part = token.rpartition(",")[2]
        steps = session.declarations.workflow.steps
        known = list(steps) if last != "--inputs" else list(dict.fromkeys(o for s in steps.values() for o in s.outputs))
        return _starting(known, part), part
    if option is not None and option.choices:
        return _starting(option.choices, token), token
    if last in _RUN_OPTIONS:
        return _starting(_runs(session), token), token
    if option is not None and option.kind != "flag":
        return [], token
    placed = [word for word in before if not word.startswith("-")]
    place = spec.positionals[min(len(placed), len(spec.positionals) - 1)] if spec.positionals else None
    known = [] if place is None else list(place.choices) or _for_positional(session, place.name, placed)
    return _starting([*known, *_when_empty(spec.options, token)], token), token


def _for_positional(session: KaleMagics, positional: str, placed: list[str]) -> list[str]:
    steps = session.declarations.workflow.steps
    if positional in {"STEP", "NAME"}:
        return list(steps)
    if positional == "RUN":
        return _runs(session)
    if positional in {"RUN|STEP", "STEP|RUN"}:
        return [*steps, *_runs(session)]
    if positional == "x" and placed:
        step = steps.get(placed[0].rpartition("/")[2].partition("[")[0])
        return list(step.outputs) if step else []
    return []


def _when_empty(options: Iterable[Option], token: str) -> list[str]:
    return [] if token else [option.flag for option in options]


def _runs(session: KaleMagics) -> list[str]:
    """Return ids of runs, newest first, if a manager is up and answers at once."""
    from kale_magic.client import Client

    try:
        with Client.connect(start=False, timeout=_MANAGER_S) as client:
            return [str(run["run"]) for run in client.runs(session.folder, 50)]
    except KaleError:
        return []


def _starting(words: Iterable[str], token: str) -> list[str]:
    return [word for word in words if word.startswith(token)]
