"""CWL documents in one form: maps as lists, short types written out, imports and named types put in place.

Owns the grammar of what is imported, and the located errors. Nothing is run, and no file outside the document's own folder is
read. Called by :mod:`kale_magic.formats.cwl_read`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from kale_magic.formats._yaml_read import MAX_CHARS, Document

if TYPE_CHECKING:
    from kale_magic.errors import FormatError

VERSIONS = ("v1.0", "v1.1", "v1.2")
_PROCESSES = ("CommandLineTool", "ExpressionTool", "Workflow")
_MAX_NESTING = 20
# Requirements that change nothing here: they grant, or are about where it runs
_GRANTS = frozenset({
    "ScatterFeatureRequirement", "SubworkflowFeatureRequirement", "MultipleInputFeatureRequirement", "StepInputExpressionRequirement",
    "SoftwareRequirement", "NetworkAccess", "WorkReuse",
})  # fmt: skip
_KNOWN = _GRANTS | {
    "InlineJavascriptRequirement", "SchemaDefRequirement", "InitialWorkDirRequirement", "EnvVarRequirement",
    "ShellCommandRequirement", "ResourceRequirement", "ToolTimeLimit", "LoadListingRequirement",
}  # fmt: skip
_KEYED = {
    "SoftwareRequirement": "packages", "EnvVarRequirement": "envDef", "InitialWorkDirRequirement": "listing", "SchemaDefRequirement": "types",
}  # fmt: skip
_SIMPLE = frozenset({
    "null", "Any", "boolean", "int", "long", "float", "double", "string", "File", "Directory", "stdin", "stdout", "stderr",
})  # fmt: skip

Path_ = tuple[str | int, ...]


class Library:
    """The documents of one folder, each read once.

    Parameters
    ----------
    folder : Path
        No file outside it is read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._documents: dict[Path, Document] = {}

    def add(self, name: str, text: str) -> Document:
        """Keep a document whose text is known."""
        document = Document(text, name)
        self._documents[(self.folder / name).resolve()] = document
        return document

    def read(self, name: str, beside: Path, asker: Document, path: Path_) -> tuple[Document, Path]:
        """Return a document that another names, and its folder."""
        whole = self.inside(name, beside, asker, path)
        if whole not in self._documents:
            self._documents[whole] = Document(self.text(whole, asker, path), whole.name)
        return self._documents[whole], whole.parent

    def text(self, whole: Path, asker: Document, path: Path_) -> str:
        """Return the text of a file in the folder."""
        try:
            if whole.stat().st_size > MAX_CHARS:
                raise asker.error(f"{whole.name} is larger than {MAX_CHARS >> 20} MB.", asker.place(path))
            return whole.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise asker.error(f"{whole.name} can't be read: {getattr(exc, 'strerror', None) or exc}.", asker.place(path)) from exc

    def inside(self, name: str, beside: Path, asker: Document, path: Path_) -> Path:
        """Return the path of a file that is named; refuse one outside the folder."""
        name = unquote(name)
        if "://" in name or name.startswith(("/", "~")) or "\0" in name:
            raise asker.error(f"{name!r} is no file in the workflow's folder.", asker.place(path))
        whole = Path(os.path.normpath(beside / name)).resolve()
        if not whole.is_relative_to(self.folder):
            raise asker.error(f"{name!r} leads out of the workflow's folder.", asker.place(path))
        return whole


class Reader:
    """One document, normalized.

    Parameters
    ----------
    library : Library
        Where other documents come from.
    document : Document
        What is read.
    folder : Path
        The document's own folder.
    """

    def __init__(self, library: Library, document: Document, folder: Path, depth: int = 0) -> None:
        self.library, self.document, self.folder, self.depth = library, document, folder, depth
        self.types: dict[str, Any] = {}
        self.version = VERSIONS[-1]
        if depth > _MAX_NESTING:
            raise document.error(f"processes are nested more than {_MAX_NESTING} deep.")

    def process(self, fragment: str = "") -> dict[str, Any]:
        """Return the process of the document, or the one of a name in its ``$graph``."""
        data = self.mapping(self.document.data, ())
        version = data.get("cwlVersion")
        if version is not None and version not in VERSIONS:
            raise self.error(("cwlVersion",), f"Kale reads CWL {', '.join(VERSIONS)}, not {version!r}")
        self.version = version or self.version
        if "$graph" not in data:
            return self.one(data, ())
        graph = self.items(data["$graph"], ("$graph",), "id")
        wanted = fragment or "main"
        for number, item in enumerate(graph):
            if str(item.get("id", "")).lstrip("#") == wanted:
                return self.one(item, ("$graph", number))
        raise self.error(("$graph",), f"there is no process {wanted!r}")

    def one(self, data: dict[str, Any], path: Path_) -> dict[str, Any]:
        """Return a process in its one form."""
        kind = data.get("class")
        if kind not in _PROCESSES:
            raise self.error((*path, "class"), f"{kind!r} is not read; Kale reads {', '.join(_PROCESSES)}")
        needs = self.requirements(data, path)
        found: dict[str, Any] = {"class": kind, "requirements": needs, "hinted": self.hinted(data, needs, path)}
        if isinstance(data.get("label"), str):
            found["label"] = data["label"]
        if data.get("doc"):
            found["doc"] = "\n".join(map(str, data["doc"])) if isinstance(data["doc"], list) else str(data["doc"])
        found["inputs"] = [self.parameter(item, (*path, "inputs", at)) for at, item in self.numbered(data.get("inputs", []), (*path, "inputs"))]
        found["outputs"] = [self.parameter(item, (*path, "outputs", at)) for at, item in self.numbered(data.get("outputs", []), (*path, "outputs"))]
        if isinstance(self.document.data, dict) and "$schemas" in self.document.data:  # an ontology says which formats are also others
            for item in found["inputs"]:
                item.pop("format", None)
        listing = needs.pop("LoadListingRequirement", {}).get("loadListing")
        for item in found["inputs"]:
            if listing and "loadListing" not in item:
                item["loadListing"] = listing
        if kind == "Workflow":
            found["steps"] = self.numbered(data.get("steps", []), (*path, "steps"))
        elif kind == "ExpressionTool":
            found["expression"] = self.text(data.get("expression"), (*path, "expression"))
        else:
            self.tool(data, found, path)
        return found

    def tool(self, data: dict[str, Any], found: dict[str, Any], path: Path_) -> None:
        """Add what only a command-line tool has."""
        command = data.get("baseCommand", [])
        found["baseCommand"] = [self.text(word, (*path, "baseCommand")) for word in (command if isinstance(command, list) else [command])]
        arguments = data.get("arguments", [])
        if not isinstance(arguments, list):
            raise self.error((*path, "arguments"), "takes a list")
        found["arguments"] = arguments
        for key in ("stdin", "stdout", "stderr"):
            if key in data:
                found[key] = self.text(data[key], (*path, key))
        for item in found["inputs"]:
            if isinstance(item["type"], str) and item["type"] == "stdin":
                found["stdin"] = f"$(inputs.{item['id']}.path)"
        for item in found["outputs"]:
            if isinstance(item["type"], str) and item["type"] in {"stdout", "stderr"}:
                found.setdefault(item["type"], f"{item['id']}.{item['type']}")
        if "successCodes" in data:
            found["successCodes"] = data["successCodes"]

    def requirements(self, data: dict[str, Any], path: Path_) -> dict[str, Any]:
        """Return requirements and hints by class; a requirement that can't be kept is refused, a hint left out."""
        found: dict[str, Any] = {}
        for part in ("hints", "requirements"):
            for at, item in self.numbered(data.get(part) or [], (*path, part), key="class"):
                name = str(item.get("class", "")).rpartition("#")[2].rpartition(":")[2]
                if name not in _KNOWN:
                    if part == "requirements":
                        why = "containers are not run" if name == "DockerRequirement" else "it is not known here"
                        raise self.error((*path, part, at), f"the requirement {name or item!r} can't be kept: {why}")
                    continue
                found[name] = {key: value for key, value in item.items() if key != "class"}
        for kind in self.pieces(found.pop("SchemaDefRequirement", {}).get("types", [])):
            if isinstance(kind, dict) and isinstance(kind.get("name"), str):
                self.types[_last(kind["name"])] = kind
        if "EnvVarRequirement" in found:
            defined = found["EnvVarRequirement"].get("envDef", {})
            if isinstance(defined, list):
                defined = {str(item.get("envName")): item.get("envValue") for item in defined if isinstance(item, dict)}
            if not isinstance(defined, dict):
                raise self.error(path, "EnvVarRequirement takes names with values")
            found["EnvVarRequirement"] = {"envDef": {key: value.get("envValue") if isinstance(value, dict) else value for key, value in defined.items()}}
        for name in _GRANTS:
            found.pop(name, None)
        return {name: self.resolved(value, path) for name, value in found.items()}

    def hinted(self, data: dict[str, Any], needs: dict[str, Any], path: Path_) -> list[str]:
        """Return those of a process's requirements that are hints only: a workflow's requirements win over them."""
        firm = {str(item.get("class")) for _, item in self.numbered(data.get("requirements") or [], (*path, "requirements"), key="class")}
        return [name for name in needs if name not in firm]

    def pieces(self, items: Any) -> list[Any]:
        """Return a list in which ``$import`` stands for what it names."""
        return [one for item in (items if isinstance(items, list) else [items]) for one in self._imported(item)]

    def _imported(self, item: Any) -> list[Any]:
        if isinstance(item, dict) and set(item) == {"$import"}:
            document, _ = self.library.read(str(item["$import"]), self.folder, self.document, ())
            return document.data if isinstance(document.data, list) else [document.data]
        return [item]

    def resolved(self, value: Any, path: Path_) -> Any:
        """Return a value with its ``$include`` and ``$import`` put in place."""
        if isinstance(value, list):
            return [self.resolved(item, (*path, number)) for number, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        if set(value) == {"$include"}:
            whole = self.library.inside(str(value["$include"]), self.folder, self.document, path)
            return self.library.text(whole, self.document, path)
        if set(value) == {"$import"}:
            return self.library.read(str(value["$import"]), self.folder, self.document, path)[0].data
        return {key: self.resolved(item, (*path, key)) for key, item in value.items()}

    def parameter(self, item: dict[str, Any], path: Path_) -> dict[str, Any]:
        """Return an input or output with its type written out."""
        found = {**self.resolved({key: value for key, value in item.items() if key not in {"type", "doc", "label"}}, path)}
        found["id"] = _last(self.text(item.get("id"), path))
        if "type" not in item and "outputSource" not in item and "type" not in found:
            raise self.error(path, f"{found['id']} has no type")
        found["type"] = self.type(item.get("type", "Any"), path, 0)
        written: dict[str, Any] = whole_formats(found, self.document)
        return written

    def type(self, kind: Any, path: Path_, depth: int) -> Any:
        """Return a type without short forms and names."""
        if depth > _MAX_NESTING:
            raise self.error(path, "a type is nested too deep")
        if isinstance(kind, list):
            return [self.type(item, path, depth + 1) for item in kind]
        if isinstance(kind, str):
            return self.named(kind, path, depth)
        if not isinstance(kind, dict):
            raise self.error(path, f"{kind!r} is no type")
        if set(kind) == {"$import"}:
            return self.type(self.resolved(kind, path), path, depth + 1)
        sort = kind.get("type")
        if sort == "array":
            return {**self.resolved(kind, path), "items": self.type(kind.get("items"), path, depth + 1)}
        if sort == "record":
            fields = [
                {**self.resolved({key: value for key, value in field.items() if key != "type"}, path),
                 "name": _last(self.text(field.get("name"), path)), "type": self.type(field.get("type"), path, depth + 1)}
                for _, field in self.numbered(kind.get("fields", []), path, key="name")
            ]  # fmt: skip
            return {**self.resolved({key: value for key, value in kind.items() if key != "fields"}, path), "fields": fields}
        if sort == "enum":
            return {**kind, "symbols": [str(symbol) for symbol in kind.get("symbols", [])]}
        inner = self.type(sort, path, depth + 1)
        return inner if len(kind) == 1 else {**self.resolved(kind, path), "type": inner}

    def named(self, kind: str, path: Path_, depth: int) -> Any:
        """Return the type of a word: simple, ``?`` or ``[]`` after it, or a name."""
        if kind.endswith("?"):
            return ["null", self.type(kind[:-1], path, depth + 1)]
        if kind.endswith("[]"):
            return {"type": "array", "items": self.type(kind[:-2], path, depth + 1)}
        if kind in _SIMPLE:
            return kind
        name = _last(kind)
        if name not in self.types and "#" in kind and kind.partition("#")[0]:
            document, _ = self.library.read(kind.partition("#")[0], self.folder, self.document, path)
            for one in document.data if isinstance(document.data, list) else [document.data]:
                if isinstance(one, dict) and isinstance(one.get("name"), str):
                    self.types[_last(one["name"])] = one
        if name not in self.types:
            raise self.error(path, f"{kind!r} is no type")
        return self.type(self.types[name], path, depth + 1)

    def numbered(self, value: Any, path: Path_, key: str = "id") -> list[tuple[str | int, dict[str, Any]]]:
        """Return the entries of a list or map, each with its place."""
        if isinstance(value, dict) and set(value) == {"$import"}:
            value = self.library.read(str(value["$import"]), self.folder, self.document, path)[0].data
        if isinstance(value, dict):
            return [(name, self.entry(name, item, key)) for name, item in value.items()]
        if not isinstance(value, list):
            raise self.error(path, f"takes a list or names with values, not {value!r}"[:200])
        pairs = [(number, one) for number, item in enumerate(value) for one in self._imported(item)]
        return [(number, self.mapping(one, (*path, number))) for number, one in pairs]

    def items(self, value: Any, path: Path_, key: str) -> list[dict[str, Any]]:
        """Return the entries of a list or map."""
        return [item for _, item in self.numbered(value, path, key)]

    def entry(self, name: str, item: Any, key: str) -> dict[str, Any]:
        """Return one entry of a map as it would stand in a list."""
        if isinstance(item, dict) and not (key in {"id", "name"} and set(item) == {"$import"}):
            is_type = key in {"id", "name"} and isinstance(item.get("type"), str) and bool({"items", "fields", "symbols"} & set(item))
            return {key: name, "type": item} if is_type else {key: name, **item}
        if key == "class":
            return {key: name, **({_KEYED[name]: item} if name in _KEYED and item is not None else {})}
        return {key: name, "type": item}

    def since_v1_2(self, item: dict[str, Any], path: Path_) -> None:
        """Refuse words of v1.2 in a document of an older version."""
        if self.version != VERSIONS[-1] and (new := {"when", "pickValue"} & set(item)):
            raise self.error(path, f"{min(new)!r} came with CWL v1.2, and this document is {self.version}")

    def mapping(self, value: Any, path: Path_) -> dict[str, Any]:
        """Return a mapping, or say that it is none."""
        if not isinstance(value, dict):
            raise self.error(path, f"takes names with values, not {'a list' if isinstance(value, list) else repr(value)[:60]}")
        return value

    def text(self, value: Any, path: Path_) -> str:
        """Return text, or say that it is none."""
        if not isinstance(value, str):
            raise self.error(path, f"takes text, not {repr(value)[:60]}")
        return value

    def error(self, path: Path_, message: str) -> FormatError:
        """Return the error that says where it is."""
        where = ".".join(map(str, path[-3:]))
        return self.document.error(f"{where}: {message}." if where else f"{message}.", self.document.place(path))


def whole_formats(value: Any, document: Document) -> Any:
    """Return a value in which the formats of files are written out by the document's ``$namespaces``."""
    spaces = document.data.get("$namespaces") if isinstance(document.data, dict) else None
    if not isinstance(spaces, dict):
        return value
    if isinstance(value, list):
        return [whole_formats(item, document) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: whole_formats(item, document) for key, item in value.items()}
    if "format" in found:
        words = found["format"] if isinstance(found["format"], list) else [found["format"]]
        whole = [f"{spaces[word.partition(':')[0]]}{word.partition(':')[2]}" if isinstance(word, str) and word.partition(":")[0] in spaces else word for word in words]
        found["format"] = whole if isinstance(found["format"], list) else whole[0]
    return found


def _last(name: str) -> str:
    return name.rpartition("#")[2].rpartition("/")[2]
