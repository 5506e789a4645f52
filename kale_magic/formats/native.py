"""The ``kale`` format: a workflow as one YAML file that people read, and that comes back exactly.

``load(dump(workflow))`` is the workflow, and ``dump(load(text))`` of a dumped text is that text, byte for byte.
Called by the magics, the command line and the manager. The keys and their order are those of
:mod:`kale_magic.model.codec`; the JSON Schema beside this file says the same to other tools.
"""

from __future__ import annotations

import json
import os
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from kale_magic.errors import FormatError
from kale_magic.formats._yaml_read import MAX_CHARS, Document
from kale_magic.formats._yaml_write import write
from kale_magic.model.codec import SCHEMA_ID, Misfit, read_workflow, workflow_to_dict

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

    from kale_magic.model.workflow import Workflow


def dump(workflow: Workflow) -> str:
    """Return the YAML text of a workflow; a folder with an absolute path stays out, since it is one machine's.

    Raises
    ------
    WorkflowError
        A parameter has no literal form.
    """
    data = workflow_to_dict(workflow)
    directory = data.get("directory", "")
    if os.path.isabs(directory) or directory.startswith("~"):
        del data["directory"]
    return write(data)


def dump_over(workflow: Workflow, old: str) -> str:
    """Return the YAML text of a workflow with the comments that a person put into an older text of it.

    An older text that is no YAML, or none of ours, gives nothing.
    """
    text = dump(workflow)
    if "#" not in old:
        return text
    import yaml

    from kale_magic.formats._yaml_comments import comments_of, with_comments

    try:
        load(old)
        comments = comments_of(old)
        told = with_comments(text, comments) if comments else text
        return told if load(told) == load(text) else text
    except (FormatError, yaml.YAMLError):
        return text


def load(text: str, source: str = "the file") -> Workflow:
    """Return the workflow of a YAML text.

    Parameters
    ----------
    text : str
        What :func:`dump` gave, or a person wrote.
    source : str
        The file's name, for messages.

    Raises
    ------
    FormatError
        The message names line and column, and what is allowed there.
    """
    document = Document(text, source)
    if not isinstance(document.data, dict) or "schema" not in document.data:
        hint = f"A Kale workflow begins with `schema: {SCHEMA_ID}`."
        raise document.error("this is no Kale workflow.", (0, 0), hint)
    try:
        workflow = read_workflow(document.data)
    except Misfit as exc:
        where = ".".join(map(str, exc.path[-2:]))
        raise document.error(f"{where}: {exc.message}" if where else exc.message, document.place(exc.path)) from exc
    for error in validator().iter_errors(document.data):
        where = ".".join(map(str, error.absolute_path))
        raise document.error(f"{where}: {error.message}.", document.place(list(error.absolute_path)))
    return workflow


def read(path: str | os.PathLike[str]) -> Workflow:
    """Return the workflow of a YAML file; raises FormatError as :func:`load`, and if the file can't be read."""
    return load(read_text(path), os.path.basename(path))


def read_text(path: str | os.PathLike[str]) -> str:
    """Return a workflow file's text; raises FormatError if it can't be read, is too large, or is no text in UTF-8."""
    name = os.path.basename(path)
    try:
        if os.path.getsize(path) > MAX_CHARS:
            raise FormatError(f"{name} is larger than {MAX_CHARS >> 20} MB.")
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except OSError as exc:
        raise FormatError(f"{os.fspath(path)} can't be read: {exc.strerror or exc}.") from exc
    except UnicodeDecodeError as exc:
        raise FormatError(f"{name} is no text in UTF-8: byte {exc.start} is {exc.object[exc.start]:#x}.") from exc


@cache
def schema() -> dict[str, Any]:
    """Return the JSON Schema of the format."""
    text = resources.files("kale_magic.formats").joinpath("schema/kale-v1.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


@cache
def validator() -> Validator:
    """Return the validator of the schema, made once."""
    from jsonschema import Draft202012Validator

    return Draft202012Validator(schema())
