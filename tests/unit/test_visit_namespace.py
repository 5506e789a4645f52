"""The visitor's names over the step's."""

from __future__ import annotations

import pytest

from kale_proxy.visit_namespace import Layer, StepBuiltins, WriteThrough, is_private


def run(code: str, namespace: Layer) -> None:
    dict.update(namespace, __builtins__=StepBuiltins(namespace.base), __name__="visit")
    exec(code, namespace, namespace)


@pytest.fixture
def step() -> dict[str, object]:
    return {"x": 1, "y": [1], "f": len}


def test_a_layer_reads_the_base_as_it_is_now(step: dict[str, object]) -> None:
    layer = Layer(step)
    step["x"] = 2
    assert layer["x"] == 2
    assert layer.get("x") == 2
    assert "x" in layer
    assert layer.get("no", 5) == 5
    with pytest.raises(KeyError):
        layer["no"]


def test_writes_and_deletes_stay_in_the_layer(step: dict[str, object]) -> None:
    layer = Layer(step)
    layer["x"] = 10
    layer.update(z=3)
    assert (layer["x"], step["x"], "z" in step) == (10, 1, False)
    del layer["x"]
    assert layer["x"] == 1
    with pytest.raises(KeyError):
        del layer["x"]
    assert step["x"] == 1


def test_iteration_shows_both_once_and_survives_a_growing_base(step: dict[str, object]) -> None:
    layer = Layer(step)
    layer["x"] = 10
    layer["z"] = 3
    names = []
    for name in layer:
        step[f"new{len(names)}"] = 0
        names.append(name)
    assert names == ["x", "y", "f", "z"]
    assert (len(layer), list(layer)[-1]) == (len(step) + 1, "z")
    assert layer.copy() == dict(layer) == dict(layer.items()) == {**step, "x": 10, "z": 3}
    assert type(layer.copy()) is dict
    assert set(layer.keys()) == set(layer.copy())
    assert 10 in layer.values()


def test_setdefault_keeps_what_the_base_has(step: dict[str, object]) -> None:
    layer = Layer(step)
    assert layer.setdefault("x", 9) == 1
    assert layer.setdefault("z", 9) == 9
    assert "z" not in step


def test_executed_code_reads_through_and_writes_to_the_layer(step: dict[str, object]) -> None:
    layer = Layer(step)
    run("def g():\n    global x\n    x = x + 1\n    return x\nr = g(); c = [x for _ in y]\nfor x in 'ab': pass", layer)
    assert (layer["r"], layer["c"], layer["x"], step["x"]) == (2, [2], "b", 1)
    step["y"] = [1, 2]
    run("n = f(y)\nclass C:\n    m = f(y)\n    x = x\n    class D: n = x", layer)
    assert (layer["n"], layer["C"].m, layer["C"].x, layer["C"].D.n) == (2, 2, "b", "b")
    run("import math\ne = eval('f(y) + sum([x for x in y])', globals(), {})", layer)
    assert layer["e"] == 5
    step["sum"] = lambda _: 7
    run("class C: m = sum(y)\ndel x", layer)
    assert (layer["C"].m, layer["x"]) == (7, 1)
    with pytest.raises(NameError, match="nowhere"):
        run("class C: m = nowhere", layer)
    assert set(step) == {"x", "y", "f", "sum"}


def test_write_through_passes_names_on_and_keeps_ipythons(step: dict[str, object]) -> None:
    layer = WriteThrough(step)
    layer["x"] = 10
    layer.update({"z": 3, "_": 4, "Out": {}})
    assert (step["x"], step["z"], layer["_"]) == (10, 3, 4)
    assert not {"_", "Out"} & set(step)
    del layer["z"]
    assert "z" not in step
    assert layer.pop("x") == 10
    assert layer.pop("_") == 4
    assert layer.pop("_", None) is None
    assert "x" not in step


@pytest.mark.parametrize(
    "name", ["_", "__", "___", "_1", "_i", "_iii", "_i12", "_oh", "_dh", "In", "Out", "print", "exit"]
)
def test_names_that_ipython_keeps(name: str) -> None:
    assert is_private(name)


@pytest.mark.parametrize("name", ["_x", "____", "_1a", "x", "step", "_id", "Input", "__name__", "_ih2"])
def test_names_of_the_user(name: str) -> None:
    assert not is_private(name)
