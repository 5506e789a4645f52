"""CWL's values, expressions and command lines, as CWL v1.2 defines them; the first common block of an imported workflow.

Plain Python without Kale, so that what was imported can be exported again. :mod:`kale_cwl_run` goes on from here.
"""

import decimal
import json
import os
import re
import shutil
import subprocess
from urllib.parse import unquote

CWL_REFERENCE = re.compile(r"\$\((inputs|self|runtime|null)((?:\.\w+|\['(?:[^'\\]|\\.)*'\]|\[\"(?:[^\"\\]|\\.)*\"\]|\[[0-9]+\])*)\)")
CWL_PART = re.compile(r"\.(\w+)|\['((?:[^'\\]|\\.)*)'\]|\[\"((?:[^\"\\]|\\.)*)\"\]|\[([0-9]+)\]")


class CwlError(Exception):
    """A tool can't be run as it is described, or did not make what it promised."""


def cwl_file(value, base="."):
    """Return a File or Directory with its path made whole, and what is derived from that."""
    if isinstance(value, list):
        return [cwl_file(item, base) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("class") not in {"File", "Directory"}:
        return {key: cwl_file(item, base) for key, item in value.items()}
    found = dict(value)
    place = found.get("path") or found.get("location")
    if place is None:
        if "contents" not in found and "listing" not in found:
            raise CwlError("a File has neither location nor contents")
        folder = os.path.abspath(os.path.join("cwl", ".literals", format(abs(hash(json.dumps(value, sort_keys=True))), "x")))
        os.makedirs(folder, exist_ok=True)
        place = os.path.join(folder, found.get("basename") or "literal")
        if found["class"] == "File":
            with open(place, "w", encoding="utf-8") as file:
                file.write(found["contents"])
        else:
            os.makedirs(place, exist_ok=True)
            for item in cwl_file(found.get("listing", []), base):
                for part in [item, *item.get("secondaryFiles", [])]:
                    cwl_stage(part, os.path.join(place, part["basename"]))
    place = unquote(place.removeprefix("file://")) if "location" in found and "path" not in found else place
    path = os.path.abspath(os.path.join(base, place))
    if not os.path.exists(path):
        raise CwlError(f"there is no {found['class'].lower()} {path}")
    found.pop("contents", None)
    name = found.get("basename") or os.path.basename(path)
    root, extension = os.path.splitext(name)
    found.update(path=path, location=f"file://{path}", basename=name, dirname=os.path.dirname(path))
    if found["class"] == "File":
        found.update(nameroot=root, nameext=extension, size=os.path.getsize(path))
    elif "listing" in found:
        found["listing"] = [cwl_path(os.path.join(path, item)) for item in sorted(os.listdir(path))]
    if found.get("secondaryFiles"):
        found["secondaryFiles"] = cwl_file(found["secondaryFiles"], base)
    return found


def cwl_path(path):
    """Return the File or Directory at a path."""
    return cwl_file({"class": "Directory" if os.path.isdir(path) else "File", "path": path})


def cwl_stage(item, target, is_writable=False):
    """Put a File or Directory where a tool wants it: a link, or a copy that it may change."""
    os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
    if os.path.lexists(target):
        return
    if not is_writable:
        os.symlink(item["path"], target)
    elif item["class"] == "Directory":
        shutil.copytree(item["path"], target)
    else:
        shutil.copyfile(item["path"], target)


def cwl_renamed(value):
    """Return files that have another name than on the disk, or that go along from elsewhere, as links side by side."""
    if isinstance(value, list):
        return [cwl_renamed(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("class") not in {"File", "Directory"}:
        return {key: cwl_renamed(item) for key, item in value.items()}
    parts = [value, *value.get("secondaryFiles", [])]
    if all(part["path"] == os.path.join(value["dirname"], part["basename"]) for part in parts):
        return value
    words = json.dumps([[part["path"], part["basename"]] for part in parts])
    folder = os.path.abspath(os.path.join("cwl", ".renamed", format(abs(hash(words)), "x")))
    for part in parts:
        target = os.path.join(folder, cwl_inside(part["basename"]))
        cwl_stage(part, target)
        value = cwl_moved(value, part["path"], target)
    return value


def cwl_inside(name):
    """Return a name within the tool's folder; one that leads out of it is refused."""
    if os.path.isabs(name) or ".." in name.split("/"):
        raise CwlError(f"the name {name!r} leads out of the tool's folder")
    return name


def cwl_moved(value, old, new):
    """Return inputs in which a staged file has its new path."""
    if isinstance(value, list):
        return [cwl_moved(item, old, new) for item in value]
    if isinstance(value, dict):
        moved = {key: cwl_moved(item, old, new) for key, item in value.items()}
        if value.get("path") == old:
            root, extension = os.path.splitext(os.path.basename(new))
            moved.update(path=new, location=f"file://{new}", basename=os.path.basename(new), dirname=os.path.dirname(new))
            if value.get("class") == "File":
                moved.update(nameroot=root, nameext=extension)
        return moved
    return value


# -- expressions ---------------------------------------------------------------------------------------


def cwl_eval(value, context, script=None, strips=True):
    """Return a value with its parameter references, and JavaScript if the tool asks for that, worked out."""
    if isinstance(value, list):
        return [cwl_eval(item, context, script) for item in value]
    if isinstance(value, dict):
        return {key: cwl_eval(item, context, script) for key, item in value.items()}
    if not isinstance(value, str) or ("$(" not in value and "${" not in value):
        return value
    parts, text = [], value.strip() if strips and value.strip()[:2] in {"$(", "${"} else value
    at = 0
    while at < len(text):
        if text[at] == "\\" and text[at + 1 : at + 2] in {"$", "\\"}:
            parts.append(text[at + 1])
            at += 2
        elif text[at : at + 2] in {"$(", "${"}:
            end = cwl_end(text, at + 1)
            parts.append((cwl_expression(text[at:end], context, script),))
            at = end
        else:
            parts.append(text[at])
            at += 1
    if len(parts) == 1 and isinstance(parts[0], tuple):
        return parts[0][0]
    return "".join(part if isinstance(part, str) else cwl_text(part[0]) for part in parts)


def cwl_end(text, start):
    """Return where the bracket at ``start`` is closed."""
    closing = {"(": ")", "{": "}", "[": "]"}
    stack, at = [], start
    while at < len(text):
        sign = text[at]
        if sign in "\"'":
            at += 1
            while at < len(text) and text[at] != sign:
                at += 2 if text[at] == "\\" else 1
        elif sign in closing:
            stack.append(closing[sign])
        elif stack and sign == stack[-1]:
            stack.pop()
            if not stack:
                return at + 1
        at += 1
    raise CwlError(f"the expression {text!r} is not closed")


def cwl_expression(text, context, script):
    """Return the value of one ``$(...)`` or ``${...}``."""
    match = CWL_REFERENCE.fullmatch(text)
    if match:
        found = None if match[1] == "null" else context.get(match[1])
        for part in CWL_PART.finditer(match[2]):
            key = re.sub(r"\\(.)", r"\1", next(group for group in part.groups() if group is not None))
            if part[4] is not None:
                found = found[int(key)]
            elif key == "length" and isinstance(found, (list, str)):
                found = len(found)
            elif isinstance(found, dict) and key in found:
                found = found[key]
            else:
                raise CwlError(f"{text}: there is no {key!r}")
        return found
    if script is None:
        raise CwlError(f"{text} is JavaScript, and the tool has no InlineJavascriptRequirement")
    body = f"return {text[1:]};" if text[1] == "(" else text[2:-1]
    names = "".join(f"var {name} = data[{json.dumps(name)}];" for name in ("inputs", "self", "runtime"))
    code = (
        "const data = JSON.parse(require('fs').readFileSync(0, 'utf-8'));"
        f"const code = {json.dumps(names + script + chr(10) + '(function(){' + body + '})()')};"
        "const found = require('vm').runInNewContext(code, {data: data}, {timeout: 20000});"
        "process.stdout.write(JSON.stringify(found === undefined ? null : found));"
    )
    node = shutil.which("node") or shutil.which("nodejs")
    if node is None:
        raise CwlError(f"{text} is JavaScript, and node is not installed")
    done = subprocess.run([node, "-e", code], input=json.dumps(context), capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise CwlError(f"{text}: {(done.stderr.strip().splitlines() or ['node failed'])[-1]}")
    return json.loads(done.stdout)


def cwl_text(value):
    """Return a value as it stands within other text."""
    return value if isinstance(value, str) else json.dumps(value)


# -- types and the command line ------------------------------------------------------------------------


def cwl_fits(kind, value):
    """Whether a value is of a CWL type."""
    if isinstance(kind, list):
        return any(cwl_fits(item, value) for item in kind)
    if isinstance(kind, dict):
        if kind["type"] == "array":
            return isinstance(value, list) and all(cwl_fits(kind["items"], item) for item in value)
        if kind["type"] == "record":
            return isinstance(value, dict) and all(cwl_fits(field["type"], value.get(field["name"])) for field in kind["fields"])
        if kind["type"] == "enum":
            return isinstance(value, str) and value in [symbol.rpartition("/")[2].rpartition("#")[2] for symbol in kind["symbols"]]
        return cwl_fits(kind["type"], value)
    checks = {
        "null": lambda: value is None,
        "Any": lambda: value is not None,
        "boolean": lambda: isinstance(value, bool),
        "int": lambda: isinstance(value, int) and not isinstance(value, bool),
        "float": lambda: isinstance(value, (int, float)) and not isinstance(value, bool),
        "string": lambda: isinstance(value, str),
        "File": lambda: isinstance(value, dict) and value.get("class") == "File",
        "Directory": lambda: isinstance(value, dict) and value.get("class") == "Directory",
    }
    same = {"long": "int", "double": "float", "stdin": "File", "stdout": "File", "stderr": "File"}
    return checks[same.get(kind, kind)]()


def cwl_choose(kind, value):
    """Return the one type of several that a value has."""
    if isinstance(kind, list):
        return next((item for item in kind if cwl_fits(item, value)), "Any")
    return kind


def cwl_bind(kind, value, binding, lead, tail, context, script):
    """Return (sort key, words, whether to quote) for a value on the command line, and for its parts.

    The key is that of all around it that have a binding, then its own position, then its name or number.
    """
    kind = cwl_choose(kind, value)
    inner = kind if isinstance(kind, dict) else {}
    is_list = isinstance(value, list) and inner.get("items") is not None
    if binding is None and not is_list:
        binding = inner.get("inputBinding")
    key = lead
    if binding is not None:
        position = cwl_eval(binding.get("position", 0), {**context, "self": value}, script) or 0
        key = [*lead, position, tail]
        if "valueFrom" in binding:
            value = cwl_eval(binding["valueFrom"], {**context, "self": value}, script)
            inner = {}
    quoted = (binding or {}).get("shellQuote", True)
    parts = []
    if isinstance(value, list) and inner.get("items") is not None and "itemSeparator" not in (binding or {}):
        own = isinstance(inner["items"], dict) and inner["items"].get("type") != "array" and "inputBinding" in inner["items"]
        below = inner.get("inputBinding") or ({} if binding is not None and not own else None)  # an array's own is its items'
        parts = [part for number, item in enumerate(value) for part in cwl_bind(inner["items"], item, below, key, number, context, script)]
    elif isinstance(value, dict) and inner.get("type") == "record":
        for field in inner["fields"]:
            if value.get(field["name"]) is not None:
                parts += cwl_bind(field["type"], value[field["name"]], field.get("inputBinding"), key, field["name"], context, script)
    else:
        words = [] if binding is None else cwl_words(value, binding)
        return [(key, words, quoted)] if words else []
    prefix = (binding or {}).get("prefix")
    return [(key, [prefix], quoted), *parts] if prefix and parts else parts


def cwl_words(value, binding):
    """Return the words of one value by its binding."""
    prefix = binding.get("prefix")
    if value is None or value is False:
        return []
    if value is True:
        return [prefix] if prefix else []
    if isinstance(value, list):
        if not value:
            return []
        texts = [cwl_word(item) for item in value]
        if "itemSeparator" not in binding:
            return ([prefix] if prefix else []) + texts
        value = binding["itemSeparator"].join(texts)
    text = cwl_word(value)
    if not prefix:
        return [text]
    return [prefix, text] if binding.get("separate", True) else [prefix + text]


def cwl_word(value):
    """Return one value as one word."""
    if isinstance(value, dict):
        return value["path"] if "path" in value else json.dumps(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = format(decimal.Decimal(repr(value)), "f")
        return text.removesuffix(".0")
    return str(value)


def cwl_sort_key(item):
    """Order bindings by position, then by place or name; numbers come before names."""
    return [(0, part, "") if isinstance(part, (int, float)) else (1, 0, str(part)) for part in item[0]]
