"""Edges from names, and the sentences about what does not fit."""

import pytest

from kale_magic.errors import CycleError, DuplicateOutputError, StepSyntaxError, UnknownStepError, WorkflowError
from kale_magic.model.dataflow import Binding, resolve, select
from kale_magic.model.step import Axis, Step, StepKind
from kale_magic.model.workflow import Workflow


def step(name, code="pass\n", **options):
    return Step(name=name, code=code, **options)


def workflow(*steps, **options):
    return Workflow(name="w", steps={s.name: s for s in steps}, **options)


def plan_of(*steps, notebook_names=(), **options):
    return resolve(workflow(*steps, **options), notebook_names=notebook_names)


def parents(plan):
    return {name: planned.parents for name, planned in plan.steps.items()}


METALS = (Axis("metal", ("Al", "Cu"), "['Al', 'Cu']"),)


def test_a_free_name_that_another_step_outputs_is_an_edge_with_its_value():
    plan = plan_of(step("make", "x = 1", outputs=("x",)), step("use", "print(x)"))
    assert plan.steps["use"].bindings == (Binding("x", "make", "x"),)
    assert plan.order == ("make", "use")


def test_declaration_order_is_free_and_kept_where_it_can_be():
    plan = plan_of(step("c", "z"), step("b", "z = y", outputs=("z",)), step("solo"), step("a", "y = 1", outputs=("y",)))
    assert plan.order == ("a", "b", "c", "solo")


def test_after_comes_first_among_parents_and_no_parent_twice():
    plan = plan_of(step("a", "x = 1", outputs=("x",)), step("b"), step("c", "x", after=("b", "a")))
    assert plan.steps["c"].parents == ("b", "a")


def test_a_name_assigned_first_or_given_as_parameter_is_no_edge():
    maker = step("make", "x = 1", outputs=("x",))
    assert parents(plan_of(maker, step("own", "x = 2\nprint(x)")))["own"] == ()
    assert parents(plan_of(maker, step("param", "print(x)", params={"x": 3})))["param"] == ()
    assert parents(plan_of(maker, step("swept", "print(x)", each=(Axis("x", (1, 2), ""),))))["swept"] == ()


def test_common_names_are_no_edges():
    plan = plan_of(step("make", "np = 1", outputs=("np",)), step("use", "np.x"), common={"common": "import numpy as np\n"})
    assert parents(plan)["use"] == ()


def test_a_sweeps_output_is_gathered_also_by_another_sweep():
    plan = plan_of(
        step("curve", "e = metal", outputs=("e",), each=METALS),
        step("fit", "list(zip(e, e_params))"),
        step("only_params", "e_params"),
        step("again", "e", each=METALS),
    )
    assert plan.steps["curve"].point_count == 2
    assert plan.steps["fit"].bindings == (Binding("e", "curve", "e", gather=True),)
    assert plan.steps["only_params"].bindings == (Binding("e", "curve", "e", gather=True),)
    assert plan.steps["again"].bindings == (Binding("e", "curve", "e", gather=True),)


def test_params_of_a_step_that_is_no_sweep_are_unknown():
    with pytest.raises(WorkflowError, match="`x_params`"):
        plan_of(step("a", "x = 1", outputs=("x",)), step("b", "x_params"))


def test_an_output_that_is_called_like_params_of_another_wins():
    plan = plan_of(
        step("a", "x = 1", outputs=("x",), each=METALS), step("p", "x_params = 1", outputs=("x_params",)), step("c", "x_params")
    )
    assert plan.steps["c"].bindings == (Binding("x_params", "p", "x_params"),)


def test_of_several_producers_the_nearest_upstream_is_meant():
    plan = plan_of(
        step("relax", "atoms = 1", outputs=("atoms",)),
        step("md", "atoms = atoms + 1", outputs=("atoms",), after=("relax",)),
        step("note", after=("md",)),
        step("fit", "atoms", after=("note",)),
    )
    assert plan.steps["md"].bindings == (Binding("atoms", "relax", "atoms"),)
    assert plan.steps["fit"].bindings == (Binding("atoms", "md", "atoms"),)


def test_a_producer_downstream_is_not_meant():
    plan = plan_of(
        step("first", "x = 1", outputs=("x",)), step("use", "x"), step("last", "x = 2", outputs=("x",), after=("use",))
    )
    assert plan.steps["use"].bindings == (Binding("x", "first", "x"),)


def test_two_producers_without_order_are_an_error_that_names_both_and_the_way_out():
    makers = [step("relax", "atoms = 1", outputs=("atoms",)), step("md", "atoms = 2", outputs=("atoms",))]
    with pytest.raises(DuplicateOutputError, match=r"Step fit uses `atoms`.*relax, md.*--inputs relax\.atoms"):
        plan_of(*makers, step("fit", "atoms"))
    with pytest.raises(DuplicateOutputError, match="relax, md"):
        plan_of(*makers, step("fit", "atoms", after=("relax", "md")))
    plan = plan_of(*makers, step("fit", "atoms", inputs=("md.atoms",)))
    assert plan.steps["fit"].bindings == (Binding("atoms", "md", "atoms"),)


def test_inputs_make_edges_for_shell_and_kernel_steps():
    plan = plan_of(
        step("a", "x = 1", outputs=("x",)),
        step("sh", "echo $x $np", kind=StepKind.SHELL, inputs=("x",), outputs=("y",)),
        step("r", "foo <- bar", kind=StepKind.KERNEL, kernel="ir", inputs=("sh.y",)),
    )
    assert plan.steps["sh"].bindings == (Binding("x", "a", "x"),)
    assert plan.steps["r"].bindings == (Binding("y", "sh", "y"),)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"inputs": ("zz",)}, WorkflowError, "--inputs of step c names `zz`, which no step outputs"),
        ({"inputs": ("vlumes",)}, WorkflowError, "Did you mean volumes?"),
        ({"inputs": ("a.zz",)}, WorkflowError, "step a has no output `zz`"),
        ({"inputs": ("nope.x",)}, UnknownStepError, "nope"),
        ({"inputs": ("volumes",), "params": {"volumes": 1}}, WorkflowError, "a parameter and an input"),
        ({"inputs": ("a.volumes", "b.volumes")}, DuplicateOutputError, "gives `volumes` twice"),
        ({"after": ("A",)}, UnknownStepError, "Did you mean a?"),
        ({"after": ("c",)}, CycleError, "c -> c"),
    ],
)
def test_bad_edges_are_named(options, error, words):
    steps = [step("a", "volumes = 1", outputs=("volumes",)), step("b", "volumes = 1", outputs=("volumes",), after=("a",))]
    with pytest.raises(error) as caught:
        plan_of(*steps, step("c", **options))
    assert words in str(caught.value)


def test_an_unknown_step_in_after_has_a_suggestion():
    with pytest.raises(UnknownStepError, match=r"names 'relx', which is no step.*Did you mean relax"):
        plan_of(step("relax"), step("b", after=("relx",)))


def test_a_circle_is_shown():
    with pytest.raises(CycleError, match="a -> c -> b -> a"):
        plan_of(step("a", after=("b",)), step("b", after=("c",)), step("c", after=("a",)), step("free"))
    with pytest.raises(CycleError, match="a -> b -> a"):
        plan_of(step("a", "x = y", outputs=("x",)), step("b", "y = x", outputs=("y",)))


def test_a_name_of_the_notebook_points_to_common():
    with pytest.raises(WorkflowError) as caught:
        plan_of(step("a", "y = 1\nx = np.ones(3)", first_line=4), notebook_names={"np"})
    assert "Step a uses `np` (line 5), which is known only to the notebook" in str(caught.value)
    assert "%%kale_common" in caught.value.hint


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("np.ones(3)", "Import it in a %%kale_common cell"),
        ("volums", "Did you mean volumes?"),
        ("helper", "Step b assigns it: give that step --outputs helper"),
        ("qwerty", "--params qwerty=..."),
        ("qwerty + asdf", "`qwerty` (line 1) and `asdf` (line 1)"),
    ],
)
def test_a_name_nobody_makes_has_a_way_out(code, words):
    with pytest.raises(WorkflowError) as caught:
        plan_of(step("a", code), step("b", "helper = volumes = 1", outputs=("volumes",)))
    assert words in str(caught.value)


def test_open_cells_and_open_common_code_are_trusted():
    assert plan_of(step("a", "from numpy import *\nx = sin(1)", outputs=("y",))).order == ("a",)
    assert plan_of(step("a", "sin(1)", outputs=("y",)), common={"common": "from numpy import *\n"}).order == ("a",)


def test_common_code_itself_may_not_use_what_only_the_notebook_knows():
    with pytest.raises(WorkflowError, match=r"The common code uses `np`.*known only to the notebook"):
        plan_of(step("a"), common={"common": "def f(): return np.ones(3)\n"}, notebook_names={"np"})


def test_common_code_may_use_its_own_and_the_steps_names():
    common = {"one": "def f(): return g() + metal + e\n", "two": "def g(): return 1\n"}
    assert plan_of(step("a", "e = f()", params={"metal": 1}), common=common).order == ("a",)


def test_an_output_never_assigned_is_an_error_with_a_suggestion():
    with pytest.raises(WorkflowError, match=r"--outputs energies, but.*never assigns `energies`.*Did you mean energy"):
        plan_of(step("a", "energy = 1", outputs=("energies",)))


def test_an_output_may_be_a_parameter_an_input_or_changed_in_place():
    plan = plan_of(
        step("a", "atoms = [n]", params={"n": 1}, outputs=("atoms", "n")),
        step("b", "atoms.append(1)", outputs=("atoms",), after=("a",)),
        step("c", "pass", inputs=("b.atoms",), outputs=("atoms",), after=("b",)),
    )
    assert plan.order == ("a", "b", "c")


def test_a_step_that_uses_its_own_output_first_needs_another_producer():
    with pytest.raises(WorkflowError, match=r"uses `x` .line 1. before it assigns it, and no other step outputs it"):
        plan_of(step("a", "x = x + 1", outputs=("x",)))


def test_names_differ_by_more_than_case():
    with pytest.raises(WorkflowError, match="fit and Fit differ only in case"):
        plan_of(step("fit"), step("Fit"))


def test_syntax_errors_of_steps_made_elsewhere_have_the_cells_line():
    with pytest.raises(StepSyntaxError, match="Step a, line 4") as caught:
        plan_of(step("a", "x = (", first_line=4))
    assert caught.value.line == 4


def test_long_chains_need_no_recursion():
    chain = [step(f"s{i}", f"x = {'x' if i else 0}", outputs=("x",), after=(f"s{i - 1}",) if i else ()) for i in range(3000)]
    plan = plan_of(*reversed(chain))
    assert plan.order == tuple(f"s{i}" for i in range(3000))
    assert plan.steps["s2999"].bindings == (Binding("x", "s2998", "x"),)


DIAMOND = (
    step("a", "x = 1", outputs=("x",)),
    step("b", "y = x", outputs=("y",)),
    step("c", after=("a",)),
    step("d", "y", after=("c",)),
)


@pytest.mark.parametrize(
    ("only", "from_", "to", "made", "chosen"),
    [
        ([], [], [], "", "a b c d"),
        (["a", "b"], [], [], "", "a b"),
        ([], ["b"], [], "a", "b d"),
        ([], [], ["b"], "", "a b"),
        ([], ["c"], ["d"], "b", "c d"),
        (["c"], [], [], "", "c"),
    ],
)
def test_select(only, from_, to, made, chosen):
    assert select(plan_of(*DIAMOND), only, from_, to, made=set(made.split())) == set(chosen.split())


def test_select_explains_what_is_missing():
    plan = plan_of(*DIAMOND)
    with pytest.raises(WorkflowError, match=r"Step b needs `x` of step a.*not chosen.*Choose a too"):
        select(plan, only=["b"])
    with pytest.raises(UnknownStepError, match="--from names 'bb'"):
        select(plan, from_=["bb"])
    with pytest.raises(WorkflowError, match="No step is chosen"):
        select(plan, only=["a"], from_=["b"])


def test_fault_elsewhere_does_not_stand_in_the_way_of_chosen_steps():
    whole = workflow(step("a", "x = 1", outputs=("x",)), step("b", "y = x"), step("bad", "nowhere"))
    with pytest.raises(WorkflowError, match="nowhere"):
        resolve(whole)
    assert list(resolve(whole, wanted=["b"]).steps) == ["a", "b"]
    with pytest.raises(WorkflowError, match="nowhere"):
        resolve(whole, wanted=["b", "bad"])
