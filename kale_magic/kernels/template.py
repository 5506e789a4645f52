"""Fills a notebook template with what is known of a step. Pure: no files, no manager.

A template is a notebook. In its cells ``{{name}}`` stands for a fact of the step (:data:`PLACEHOLDERS`): in Markdown
cells as text, in code cells as a literal of the notebook's language, so that ``open({{folder}})`` is right whatever the
folder is called. Other text in double braces is left alone. A cell with the tag ``if-NAME`` is left out when that fact
is empty, one with the tag ``with-code`` when the step's kernel can't run the template's code cells.
"""

from __future__ import annotations

import copy
import json
import re
import shlex
from typing import TYPE_CHECKING, Any

from kale_magic.model.literals import to_literal

if TYPE_CHECKING:
    from collections.abc import Mapping

PLACEHOLDERS = {
    "address": "RUN/STEP, which names it from anywhere",
    "run": "the run's id",
    "step": "the step's name; of a sweep's point with its number",
    "workflow": "the workflow's name",
    "state": "its state when the notebook is made",
    "description": "its description, Markdown",
    "code": "its code",
    "folder": "the folder with its logs and samples",
    "parameters": "its parameters: names and values",
    "inputs": "its inputs: names, and the steps that make them",
    "given": "the names of parameters and inputs",
    "outputs": "the names of its outputs",
}
_PLACE = re.compile(r"\{\{ *(" + "|".join(PLACEHOLDERS) + r") *\}\}")
_COMMENT = {"javascript": "//", "typescript": "//", "scala": "//", "java": "//", "c++": "//", "rust": "//", "go": "//", "lua": "--"}
_WITH_CODE = "with-code"
_VALUE_MAX = 300


def fill(template: Mapping[str, Any], facts: Mapping[str, Any], language: str) -> dict[str, Any]:
    """Return a notebook (format 4) made from a template.

    Python cells of a template are of no use in a kernel of another language: they give way to a comment.

    Parameters
    ----------
    template : dict
        A notebook in format 4.
    facts : dict
        A text, a dict or a tuple for each of :data:`PLACEHOLDERS`.
    language : str
        What the step's kernel speaks.
    """
    made: dict[str, Any] = copy.deepcopy(dict(template))
    is_other = language_of(template).casefold() != language.casefold()
    cells = [cell for cell in made["cells"] if not _is_left_out(cell, facts, without_code=is_other)]
    for cell in cells:
        is_code = cell["cell_type"] == "code"
        cell["source"] = _filled("".join(cell["source"]), facts, language if is_code else "")
        tags = [tag for tag in cell.get("metadata", {}).get("tags", ()) if not _is_condition(tag)]
        cell["metadata"] = {"tags": tags} if tags else {}
        if is_code:
            cell["outputs"], cell["execution_count"] = [], None
    if is_other:
        cells += _cells_for_other(facts, language)
    return made | {"cells": cells}


def language_of(notebook: Mapping[str, Any]) -> str:
    """Return the language of a notebook, ``python`` if it does not say."""
    metadata = notebook.get("metadata", {})
    found = metadata.get("language_info", {}).get("name") or metadata.get("kernelspec", {}).get("language")
    return str(found or "python")


def _is_left_out(cell: Mapping[str, Any], facts: Mapping[str, Any], *, without_code: bool) -> bool:
    tags = cell.get("metadata", {}).get("tags", ())
    if without_code and (cell["cell_type"] == "code" or _WITH_CODE in tags):
        return True
    return any(_is_condition(tag) and tag != _WITH_CODE and not facts[tag[3:]] for tag in tags)


def _is_condition(tag: str) -> bool:
    return tag == _WITH_CODE or (tag.startswith("if-") and tag[3:] in PLACEHOLDERS)


def _filled(source: str, facts: Mapping[str, Any], language: str) -> str:
    if language:
        return _PLACE.sub(lambda match: _literal(facts[match[1]], language), source)
    filled = _PLACE.sub(lambda match: _markdown(match[1], facts[match[1]]), source)
    return re.sub(r"\n{3,}", "\n\n", filled).strip()


def _markdown(name: str, value: Any) -> str:
    if isinstance(value, dict):
        said = "from {0}".format if name == "inputs" else _equals
        return "\n".join(f"- {_code(key)} {said(item)}" for key, item in value.items())
    if isinstance(value, tuple):
        return ", ".join(map(_code, value))
    return str(value)


def _equals(value: object) -> str:
    text = to_literal(value)
    return f"= {_code(text if len(text) <= _VALUE_MAX else text[:_VALUE_MAX] + '...')}"


def _code(text: str) -> str:
    marks = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{marks}{space}{text}{space}{marks}"


def _literal(value: Any, language: str) -> str:
    if language.casefold() == "python":
        return to_literal(list(value) if isinstance(value, tuple) else value)
    if language.casefold() in {"bash", "sh", "zsh"}:
        words = [value] if isinstance(value, str) else [f"{k}={v}" for k, v in value.items()] if isinstance(value, dict) else value
        return " ".join(map(shlex.quote, words))
    return json.dumps(value if isinstance(value, str) else list(value))


def _cells_for_other(facts: Mapping[str, Any], language: str) -> list[dict[str, Any]]:
    sign = _COMMENT.get(language.casefold(), "#")
    text = (
        f"This kernel speaks {language}, so the template's Python cells are left out.\n"
        f"What the step prints: `jupyter kale logs {facts['address']} --follow`, or the file `stdout.log` in `{facts['folder']}`."
    )
    waits = f"{sign} A cell here sees the step's variables. Unless the kernel has subshells it waits until the step's code is done."
    return [
        {"cell_type": "markdown", "id": "other-language", "metadata": {}, "source": text},
        {"cell_type": "code", "id": "yours", "metadata": {}, "source": waits, "outputs": [], "execution_count": None},
    ]
