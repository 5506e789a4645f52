"""Run CWL tools, and workflows of them; the second common block of an imported workflow, which goes on from ``kale_cwl``."""

import concurrent.futures
import glob
import itertools
import json
import os
import shlex
import shutil
import subprocess


def cwl_inputs(tool, given, script):
    """Return a tool's inputs: given or default, of the right type, with the files that go along."""
    inputs = {}
    for item in tool["inputs"]:
        value = given.get(item["id"])
        if value is None and "default" in item:
            value = cwl_file(item["default"])
        if not cwl_fits(item["type"], value):
            what = "needs a value: give it by --params or a job file" if value is None else f"can't be {str(value)[:80]!r}"
            raise CwlError(f"input {item['id']} of {tool['name']} {what}")
        inputs[item["id"]] = value
    for item in tool["inputs"]:
        cwl_format(item, inputs[item["id"]], {"inputs": inputs, "self": None}, script)
        inputs[item["id"]] = cwl_renamed(cwl_load(item, cwl_renamed(inputs[item["id"]]), inputs, script))
    return inputs


def cwl_format(item, value, context, script):
    """Refuse a file whose format is not the one that an input asks for; a file that says none is taken."""
    kind = cwl_choose(item["type"], value)
    if isinstance(value, list):
        for one in value:
            cwl_format({**item, "type": kind.get("items", "Any") if isinstance(kind, dict) else "Any"}, one, context, script)
    elif isinstance(value, dict) and value.get("class") == "File":
        wanted = cwl_eval(item.get("format"), context, script)
        if wanted and value.get("format") and value["format"] not in (wanted if isinstance(wanted, list) else [wanted]):
            raise CwlError(f"{value['basename']} is of the format {value['format']}, and {wanted} is asked for")
    elif isinstance(value, dict) and isinstance(kind, dict) and kind.get("type") == "record":
        for field in kind["fields"]:
            cwl_format(field, value.get(field["name"]), context, script)


def cwl_load(item, value, inputs, script):
    """Return a file input with its secondary files, contents or listing, as the tool asks for them."""
    if isinstance(value, list):
        return [cwl_load(item, one, inputs, script) for one in value]
    if isinstance(value, dict) and value.get("class") == "File":
        value = cwl_secondary(item, value, {"inputs": inputs, "self": value}, script)
        if item.get("loadContents") or (item.get("inputBinding") or {}).get("loadContents"):
            value = {**value, "contents": cwl_contents(value["path"])}
    wanted = item.get("loadListing", "no_listing")
    if isinstance(value, dict) and value.get("class") == "Directory" and wanted != "no_listing":
        value = cwl_listed(value, wanted == "deep_listing")
    return value


def cwl_listed(folder, is_deep):
    """Return a Directory with what is in it."""
    inside = [cwl_path(os.path.join(folder["path"], name)) for name in sorted(os.listdir(folder["path"]))]
    return {**folder, "listing": [cwl_listed(item, True) if is_deep and item["class"] == "Directory" else item for item in inside]}


def cwl_contents(path):
    """Return the text of a file, which may have 64 KiB."""
    if os.path.getsize(path) > 65536:
        raise CwlError(f"{path} has more than 64 KiB, so its contents can't be loaded")
    with open(path, encoding="utf-8") as file:
        return file.read()


def cwl_secondary(item, value, context, script):
    """Return a file with those that lie beside it by the patterns of ``secondaryFiles``."""
    wanted = item.get("secondaryFiles") or (item["type"].get("secondaryFiles") if isinstance(item["type"], dict) else None)
    if not wanted:
        return value
    known = {other["basename"]: other for other in value.get("secondaryFiles", [])}
    for one in wanted if isinstance(wanted, list) else [wanted]:
        pattern, required = (one, None) if isinstance(one, str) else (one["pattern"], one.get("required"))
        names = cwl_eval(pattern, context, script)
        if isinstance(names, str) and not ("$(" in pattern or "${" in pattern):
            is_optional, names = names.endswith("?"), names.rstrip("?")
            base = value["basename"]
            while names.startswith("^"):
                base, names = os.path.splitext(base)[0], names[1:]
            names = base + names
            required = not is_optional if required is None else required
        required = cwl_eval(required, context, script)
        for name in names if isinstance(names, list) else [names]:
            found = cwl_file(name) if isinstance(name, dict) else None
            if found is None and name is not None:
                path = os.path.join(value["dirname"], name)
                if os.path.exists(path):
                    found = cwl_path(path)
                elif required and name not in known:
                    raise CwlError(f"there is no {name} beside {value['path']}")
            if found is not None:
                known.setdefault(found["basename"], found)
    return {**value, "secondaryFiles": list(known.values())} if known else value


def cwl_run(tool, given, folder):
    """Run a tool in a fresh folder and return its outputs by name."""
    needs = tool["requirements"]
    script = None
    if "InlineJavascriptRequirement" in needs:
        script = "\n".join(needs["InlineJavascriptRequirement"].get("expressionLib", []))
    inputs = cwl_inputs(tool, given, script)
    folder = os.path.abspath(folder)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    asked = needs.get("ResourceRequirement", {})
    context = {"inputs": inputs, "self": None, "runtime": {}}
    cores = cwl_eval(asked.get("coresMin", asked.get("coresMax", 1)), context, script)
    memory = cwl_eval(asked.get("ramMin", asked.get("ramMax", 256)), context, script)
    space = {f"{key}Size": cwl_eval(asked.get(f"{key}Min", asked.get(f"{key}Max", 1024)), context, script) for key in ("outdir", "tmpdir")}
    temporary = f"{folder}.tmp"
    os.makedirs(temporary, exist_ok=True)
    sizes = {key: int(-(-amount // 1)) for key, amount in {"cores": cores, "ram": memory, **space}.items()}
    context["runtime"] = {"outdir": folder, "tmpdir": temporary, **sizes}
    if tool["class"] == "Workflow":
        return cwl_workflow(tool, inputs, folder, script)
    if tool["class"] == "ExpressionTool":
        found = cwl_eval(tool["expression"], context, script)
        return {item["id"]: cwl_file(found.get(item["id"])) for item in tool["outputs"]}
    cwl_work_folder(needs.get("InitialWorkDirRequirement"), context, script, folder)
    code = cwl_execute(tool, needs, context, script, folder)
    if code not in tool.get("successCodes", [0]):
        raise CwlError(f"{tool['name']} ended with exit code {code}")
    context["runtime"]["exitCode"] = code
    return cwl_outputs(tool, context, script, folder)


def cwl_work_folder(requirement, context, script, folder):
    """Put into the tool's folder what it wants there; inputs that are staged have their new path."""
    listing = cwl_eval(requirement["listing"], context, script) if requirement and isinstance(requirement["listing"], str) else (requirement or {}).get("listing", [])
    for item in listing or []:
        name, is_writable = None, False
        if isinstance(item, dict) and "entry" in item:
            name = cwl_eval(item.get("entryname"), context, script)
            is_writable = item.get("writable", False)
            item = cwl_eval(item["entry"], context, script, strips=False)
            if item is None:
                continue
            if not isinstance(item, (dict, list)) or (isinstance(item, dict) and item.get("class") not in {"File", "Directory"}) \
                    or (isinstance(item, list) and not all(isinstance(one, dict) and one.get("class") in {"File", "Directory"} for one in item)):
                text = item if isinstance(item, str) else json.dumps(item)
                path = os.path.join(folder, cwl_inside(name))
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "w", encoding="utf-8") as file:
                    file.write(text)
                continue
        else:
            item = cwl_eval(item, context, script)
        for one in item if isinstance(item, list) else [item]:
            if one is None:
                continue
            if isinstance(one, dict) and "entry" in one:
                cwl_work_folder({"listing": [one]}, context, script, folder)
                continue
            whole = cwl_file(one)
            for part in [whole, *whole.get("secondaryFiles", [])]:
                target = os.path.join(folder, cwl_inside(name if name and part is whole else part["basename"]))
                cwl_stage(part, target, is_writable)
                context["inputs"] = cwl_moved(context["inputs"], part["path"], target)


def cwl_execute(tool, needs, context, script, folder):
    """Build the command line and run it; return the exit code."""
    parts = [([-1000000, number], [word], True) for number, word in enumerate(tool.get("baseCommand", []))]
    for number, argument in enumerate(tool.get("arguments", [])):
        binding = argument if isinstance(argument, dict) else {"valueFrom": argument}
        value = cwl_eval(binding.get("valueFrom"), context, script)
        words = cwl_words(value, binding)
        position = cwl_eval(binding.get("position", 0), context, script) or 0
        parts.append(([position, number], words, binding.get("shellQuote", True)))
    for item in tool["inputs"]:
        value = context["inputs"].get(item["id"])
        if value is not None:
            parts += cwl_bind(item["type"], value, item.get("inputBinding"), [], item["id"], context, script)
    parts.sort(key=cwl_sort_key)
    environment = {**os.environ, "HOME": folder, "TMPDIR": context["runtime"]["tmpdir"]}
    for name, text in needs.get("EnvVarRequirement", {}).get("envDef", {}).items():
        environment[name] = cwl_text(cwl_eval(text, context, script))
    limit = cwl_eval(needs.get("ToolTimeLimit", {}).get("timelimit"), context, script)
    if "ShellCommandRequirement" in needs:
        command = ["/bin/sh", "-c", " ".join(shlex.quote(word) if quoted else word for _, words, quoted in parts for word in words)]
    else:
        command = [word for _, words, _ in parts for word in words]
    if not command:
        raise CwlError(f"{tool['name']} has no command")
    names = {key: cwl_eval(tool[key], context, script) for key in ("stdin", "stdout", "stderr") if tool.get(key)}
    print("+", shlex.join(command), flush=True)
    with open(names.get("stdin") or os.devnull, "rb") as stdin:
        streams = {key: open(os.path.join(folder, cwl_inside(names[key])), "wb") for key in ("stdout", "stderr") if key in names}
        try:
            return subprocess.run(command, cwd=folder, env=environment, stdin=stdin, timeout=limit or None, check=False, **streams).returncode
        except OSError as exc:
            raise CwlError(f"{command[0]} could not be started: {exc.strerror}") from exc
        except subprocess.TimeoutExpired as exc:
            raise CwlError(f"{tool['name']} took longer than its limit of {limit} s") from exc
        finally:
            for stream in streams.values():
                stream.close()


def cwl_outputs(tool, context, script, folder):
    """Return what a tool made, by the globs and expressions of its outputs."""
    if os.path.exists(os.path.join(folder, "cwl.output.json")):
        with open(os.path.join(folder, "cwl.output.json"), encoding="utf-8") as file:
            found = json.load(file)
        return {item["id"]: cwl_file(found.get(item["id"]), folder) for item in tool["outputs"]}
    outputs = {}
    for item in tool["outputs"]:
        value = cwl_output(item, item["type"], context, script, folder, tool)
        if not cwl_fits(item["type"], value):
            raise CwlError(f"output {item['id']} of {tool['name']} is {str(value)[:80]!r}, which its type does not allow")
        outputs[item["id"]] = value
    return outputs


def cwl_output(item, kind, context, script, folder, tool):
    """Return one output, or one field of a record."""
    binding = item.get("outputBinding")
    if isinstance(kind, str) and kind in {"stdout", "stderr"}:
        return cwl_path(os.path.join(folder, cwl_eval(tool[kind], context, script)))
    if binding is None and isinstance(kind, dict) and kind["type"] == "record":
        return {field["name"]: cwl_output(field, field["type"], context, script, folder, tool) for field in kind["fields"]}
    if binding is None:
        return None
    found = None
    if "glob" in binding:
        patterns = cwl_eval(binding["glob"], context, script)
        names = [name for pattern in (patterns if isinstance(patterns, list) else [patterns])
                 for name in ([""] if pattern in {".", folder} else sorted(glob.glob(pattern, root_dir=folder, recursive=True)))]
        found = [cwl_path(os.path.join(folder, name) if name else folder) for name in dict.fromkeys(names)]
        if binding.get("loadListing", "no_listing") != "no_listing":
            found = [cwl_listed(one, binding["loadListing"] == "deep_listing") if one["class"] == "Directory" else one for one in found]
        if binding.get("loadContents"):
            found = [{**file, "contents": cwl_contents(file["path"])} for file in found]
    if "outputEval" in binding:
        found = cwl_file(cwl_eval(binding["outputEval"], {**context, "self": found}, script), folder)
        found = json.loads(json.dumps(found))
    elif found is not None and not cwl_takes_list(kind):
        if len(found) > 1:
            raise CwlError(f"output {item.get('id')}: several files match")
        found = found[0] if found else None
    if isinstance(found, dict) and found.get("class") == "Directory" and item.get("loadListing", "no_listing") == "no_listing":
        found.pop("listing", None)
    if isinstance(found, (dict, list)):
        found = cwl_added(item, found, context, script)
    return found


def cwl_added(item, found, context, script):
    """Return an output's files with their secondary files and format."""
    if isinstance(found, list):
        return [cwl_added(item, one, context, script) for one in found]
    if isinstance(found, dict) and found.get("class") == "File":
        wanted = item.get("secondaryFiles")
        if wanted:
            optional = [{"pattern": one, "required": False} if isinstance(one, str) else {"required": False, **one} for one in (wanted if isinstance(wanted, list) else [wanted])]
            found = cwl_secondary({**item, "secondaryFiles": optional}, found, {**context, "self": found}, script)
        if item.get("format"):
            found = {**found, "format": cwl_eval(item["format"], context, script)}
    return found


def cwl_takes_list(kind):
    """Whether a type is a list, or may be one."""
    if isinstance(kind, list):
        return any(cwl_takes_list(item) for item in kind)
    return isinstance(kind, dict) and (kind["type"] == "array" or cwl_takes_list(kind["type"]))


def cwl_check(kinds, outputs):
    """Refuse outputs of a workflow that are not of their type."""
    for name, kind in kinds.items():
        if not cwl_fits(kind, outputs[name]):
            raise CwlError(f"output {name} is {str(outputs[name])[:80]!r}, which its type does not allow")


def cwl_flatten(items):
    """Return several sources as one list."""
    return [one for item in items for one in (item if isinstance(item, list) else [item])]


def cwl_or(value, default):
    """Return a value, or another one if there is none."""
    return default if value is None else value


def cwl_pick(how, items):
    """Return those of several sources that are there, by CWL's pickValue."""
    there = [item for item in items if item is not None]
    if how == "all_non_null":
        return there
    if not there or (how == "the_only_non_null" and len(there) != 1):
        raise CwlError(f"{how}: {len(there)} of {len(items)} values are there")
    return there[0]


def cwl_workflow(tool, inputs, folder, script):
    """Run a workflow within a step, one of its steps after the other; return its outputs by name."""
    known = dict(inputs)
    left = list(tool["steps"])
    while left:
        ready = [step for step in left if all(name in known for item in step["in"] for name in item["source"])]
        if not ready:
            raise CwlError(f"steps of {tool['name']} wait for each other")
        for step in ready:
            given = {item["id"]: cwl_source(item, known) for item in step["in"]}
            made = cwl_step(step["run"], given, step["values"], step["scatter"], step["method"], step["when"], script, f"{folder}/{step['name']}", step["load"])
            known.update({f"{step['name']}/{item['id']}": value for item, value in zip(step["run"]["outputs"], made)})
            left.remove(step)
    return {item["id"]: cwl_source(item, known) for item in tool["outputs"]}


def cwl_source(item, known):
    """Return the value of an input or output from its sources."""
    found = [known[name] for name in item["source"]]
    if not item["is_list"]:
        value = found[0] if found else None
    else:
        value = cwl_flatten(found) if item["merge"] == "merge_flattened" else found
    if item.get("pick"):
        value = cwl_pick(item["pick"], value)
    return cwl_file(item["default"]) if value is None and "default" in item else value


def cwl_step(tool, given, values=None, scatter=(), method="dotproduct", when=None, script=None, base=None, load=()):
    """Run a tool once, or for each of the values that are scattered; return its outputs in their order.

    Parameters
    ----------
    tool : dict
        As in CWL; its name is that of its folder below ``cwl``.
    given : dict
        Values by input.
    values : dict
        ``valueFrom`` by input.
    scatter : tuple of str
        Inputs that are lists here.
    method : str
        dotproduct, flat_crossproduct or nested_crossproduct.
    when : str
        Expression that says whether it runs; if not, its outputs are None.
    script : str
        JavaScript library of the workflow; None if it has no JavaScript.
    base : str
        Its folder, if not ``cwl/NAME``.
    load : sequence of str
        Inputs whose files are wanted with their contents.
    """
    given = cwl_file(given)
    names = [item["id"] for item in tool["outputs"]]

    def one(point, folder):
        whole = {**given, **point}
        for item in tool["inputs"]:
            if whole.get(item["id"]) is None and "default" in item:
                whole[item["id"]] = cwl_file(item["default"])
        context = {"inputs": whole, "runtime": {}}
        loaded = {item["id"]: item for item in tool["inputs"] if item.get("loadContents")}
        loaded.update({key: {"type": "Any", "loadContents": True} for key in load})
        whole.update({key: cwl_load(item, whole.get(key), whole, script) for key, item in loaded.items()})
        final = {**whole, **{key: cwl_file(cwl_eval(text, {**context, "self": whole.get(key)}, script)) for key, text in (values or {}).items()}}
        if when is not None:
            does = cwl_eval(when, {"inputs": final, "runtime": {}}, script)
            if not isinstance(does, bool):
                raise CwlError(f"`when` of {tool['name']} is {does!r}, neither true nor false")
            if not does:
                return dict.fromkeys(names)
        return cwl_run(tool, final, folder)

    base = base or os.path.join("cwl", tool["name"] + (f"-{os.environ['KALE_POINT']}" if "KALE_POINT" in os.environ else ""))
    if not scatter:
        made = one({}, base)
        return tuple(made[name] for name in names)
    columns = [given[name] for name in scatter]
    if method == "dotproduct" and len({len(column) for column in columns}) > 1:
        raise CwlError(f"{tool['name']}: the lists that are scattered have different lengths")
    rows = list(zip(*columns)) if method == "dotproduct" else list(itertools.product(*columns))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as workers:
        made = list(workers.map(one, [dict(zip(scatter, row)) for row in rows], [f"{base}/{number}" for number in range(len(rows))]))
    found = tuple([part[name] for part in made] for name in names)
    if method == "nested_crossproduct":
        found = tuple(cwl_nest(column, [len(part) for part in columns]) for column in found)
    return found


def cwl_nest(items, lengths):
    """Return a flat list as lists within lists."""
    if len(lengths) == 1:
        return items
    size = len(items) // lengths[0] if lengths[0] else 0
    return [cwl_nest(items[number * size : (number + 1) * size], lengths[1:]) for number in range(lengths[0])]
