"""Every importer against mutated real files: a located sentence or a workflow, never a crash, never code run."""

import contextlib
import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kale_magic.dsl.notebook import read_notebook
from kale_magic.errors import FormatError, KaleError
from kale_magic.formats import cwl_read, native, to_notebook, wfformat_read
from tests.unit.workflows import full_workflow

DATA = Path(__file__).parent.parent / "data"
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
BITS = ["", " ", "\n", ":", "- ", "[", "]", "{", "}", "'", '"', "&a ", "*a", "!!python/object:os.system ", "!x ", "|", ">", "#", "\t", "\0", "\x85", "9" * 30,
        "null", "true", "../", "/etc/passwd", "$(", "${", "é", "\ud800", "-1", "1e999", ".nan", "? ", "<<: ", "a: " * 30, "[" * 80]  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(BITS) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "type", "class", "x", "code", "steps", "name"]), inner, max_size=3),
    max_leaves=5,
)


def _small_instance():
    data = json.loads(gzip.decompress((DATA / "wfformat/blast.json.gz").read_bytes()))
    tasks = data["workflow"]["specification"]["tasks"]
    kept = {task["id"] for task in tasks[:3]}
    for task in tasks[:3]:
        task["children"] = [child for child in task["children"] if child in kept]
    data["workflow"]["specification"]["tasks"] = tasks[:3]
    data["workflow"]["specification"]["files"] = data["workflow"]["specification"]["files"][:5]
    data["workflow"]["execution"]["tasks"] = data["workflow"]["execution"]["tasks"][:3]
    return json.dumps(data, indent=1)


KALE = native.dump(full_workflow())
WFFORMAT = _small_instance()
CWL = (DATA / "cwl/lines.cwl").read_text()
NOTEBOOK = json.dumps(to_notebook(full_workflow()), indent=1)


@st.composite
def mutated(draw, text):
    """Draw a text in which some slices are removed, doubled, or replaced by something odd."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        text = text[:start] + draw(st.sampled_from([*BITS, text[start:end] * 2])) + text[end:]
    return text


@st.composite
def reshaped(draw, data):
    """Draw a tree of which one node is replaced by another value, or removed."""
    data = json.loads(json.dumps(data))
    at = data
    while isinstance(at, (dict, list)) and at:
        key = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], (dict, list)) or not at[key] or draw(st.integers(0, 3)) == 0:
            if draw(st.booleans()):
                at[key] = draw(VALUES)
            else:
                del at[key]
            break
        at = at[key]
    return data


def _is_refused_or_read(read, text, source):
    said = source
    with contextlib.suppress(FormatError):
        try:
            read(text)
        except FormatError as exc:
            said = str(exc)
            raise
    assert source in said


@pytest.fixture(autouse=True)
def _nothing_runs(monkeypatch):
    """Fail if an importer runs anything of what it reads."""

    def refuse(*args, **_):
        pytest.fail(f"an importer ran {args[:1]}")

    for name in ("os.system", "subprocess.Popen", "os.execv", "os.posix_spawn"):
        monkeypatch.setattr(name, refuse)


@FUZZ
@given(mutated(KALE))
def test_kale_yaml(text):
    _is_refused_or_read(lambda text: native.load(text, "x.yaml"), text, "x.yaml")


@FUZZ
@given(reshaped(native.Document(KALE, "x").data))
def test_kale_yaml_of_another_shape(data):
    _is_refused_or_read(lambda text: native.load(text, "x.yaml"), json.dumps(data), "x.yaml")


@FUZZ
@given(mutated(WFFORMAT))
def test_wfformat(text):
    _is_refused_or_read(lambda text: wfformat_read.load(text, "x.json"), text, "x.json")


@FUZZ
@given(reshaped(json.loads(WFFORMAT)))
def test_wfformat_of_another_shape(data):
    _is_refused_or_read(lambda text: wfformat_read.load(text, "x.json"), json.dumps(data), "x.json")


@FUZZ
@given(mutated(CWL))
def test_cwl(text):
    _is_refused_or_read(lambda text: cwl_read.load(text, DATA / "cwl/x.cwl"), text, "x.cwl")


@FUZZ
@given(reshaped(native.Document(CWL, "x").data))
def test_cwl_of_another_shape(data):
    _is_refused_or_read(lambda text: cwl_read.load(text, DATA / "cwl/x.cwl"), json.dumps(data), "x.cwl")


@FUZZ
@given(mutated(NOTEBOOK))
def test_notebook(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "x.ipynb"
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    with contextlib.suppress(KaleError):
        read_notebook(path)


def test_alias_bomb_is_refused_at_once():
    bomb = "a: &a [x, x]\n" + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)}, *{chr(97 + n)}]\n" for n in range(20))
    for read in (lambda: native.load(f"schema: kale-magic.org/v1\n{bomb}", "x"), lambda: cwl_read.load(f"cwlVersion: v1.2\n{bomb}", DATA / "cwl/x.cwl")):
        with pytest.raises(FormatError, match="anchors and aliases"):
            read()
