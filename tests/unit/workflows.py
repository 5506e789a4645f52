"""Workflows for tests of everything that keeps them: one that uses each field, and many made at random."""

from __future__ import annotations

import random
from dataclasses import replace

from kale_magic.dsl.cells import clean_description
from kale_magic.model.literals import parse_each, to_literal
from kale_magic.model.resources import Resources
from kale_magic.model.step import Axis, Step, StepKind, clean_code, reuse_conflict
from kale_magic.model.workflow import Workflow
from kale_proxy.values import FORMS

SIGNS = [
    *"ab  \n\t:#-'\"{}[](),|>&*!%@`\\~?=$_0159.eunyoé😀", "\\\\", "'''", '"""', "{x}", "\\xi", " --x ", "\x85", "\u2028", "%%time\n",
]  # fmt: skip
ATOMS = [0, -3, 1.5, -1e-7, True, None, b"x'", 2j, (1,), (), set(), {1, 2}, float("inf"), 10**20, "no", "1", "", "{x}"]
CODES = {
    StepKind.PYTHON: [
        "x = 1", "'''s'''\ny='é'\n\t", "('a')\nx=1", "# c\n'''a'''\nx=2", "%time x=1\n!ls 'a", "%%bash\necho 'x", "for i in []:\n\n    i   \n",
    ],
    StepKind.SHELL: ["echo 'a b'", "'''a\nb'''\nls", "\tx\n y", "  lead", "cat <<'X'\n  a \n\n\nX"],
    StepKind.KERNEL: ['x <- 1\n"s"'],
    StepKind.SCRIPT: ["#!/bin/sh\n#SBATCH -n 1\nls", "#PBS -l x\nls"],
}  # fmt: skip


def full_workflow() -> Workflow:
    """Return a workflow in which every field is set."""
    curve = Step(
        name="curve",
        code="volumes = [metal]\nif t:\n\tt = 0 \n\nenergies = 1\n",
        description="Energy against volume, $E(V)$.",
        after=("sh",),
        inputs=("sh.start",),
        outputs=("volumes", "energies"),
        params={"n": 10, "name": "x y", "pair": (1, 2), "tiny": 1e-5, "no": "no", "deep": [1, {"a": None}]},
        each=(Axis("metal", ("Al", "Cu"), "['Al', 'Cu']"), Axis("t", (0.0, 0.5, 1.0), "linspace(0, 1, 3)")),
        files_in=("data/*.csv",),
        files_out=("out/a b.txt",),
        resources=Resources(
            nodes=1, ntasks=2, cpus=4, gpus=0, memory_bytes=4 << 30, walltime_s=5400, queue="short", account="a", qos="q",
            constraint="c&d", reservation="r", native=("#SBATCH --x=1",), modules=("gcc/12",), env=(("A", "1"),), setup=("source x",), container="i/x.sif",
        ),
        retries=2,
        executor="local",
        tags=("slow", "a,b"),
    )  # fmt: skip
    shell = Step(name="sh", code="start=1\n", kind=StepKind.SHELL, outputs=("start",), description="Two\n  lines.")
    other = Step(
        name="r", code="x <- 1\n", kind=StepKind.KERNEL, kernel="ir", is_zipped=True, each=(Axis("i", (0, 1), "range(2)"),)
    )
    script = Step(name="job", code="#!/bin/bash\n#SBATCH -n 1\nsrun x\n", kind=StepKind.SCRIPT)
    return Workflow(
        name="eos",
        description="It's: a test # of $E$",
        executor="local",
        directory="runs here",
        common={"common": "import numpy as np\n", "more": "def f():\n    return 1\n"},
        markdown={"": "# Title\n", "sh": "Text with $x$.\n"},
        steps={s.name: s for s in (shell, curve, other, script)},
    )


def random_workflow(seed: int) -> Workflow:
    """Return a workflow of awkward texts and values; the same for the same seed."""
    return _Maker(random.Random(seed)).workflow()


class _Maker:
    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def text(self, most: int = 12) -> str:
        return "".join(self.rng.choice(SIGNS) for _ in range(self.rng.randint(1, most)))

    def line(self) -> str:
        return self.text(10).strip() or "q"

    def name(self) -> str:
        return self.rng.choice("abcdxyz") + str(self.rng.randint(0, 99))

    def some(self, make) -> tuple:
        return tuple(dict.fromkeys(make() for _ in range(self.rng.choice([0, 0, 1, 2]))))

    def value(self, depth: int = 0):
        kind = self.rng.random()
        if kind < 0.4:
            return self.text()
        if kind < 0.7 or depth > 2:
            return self.rng.choice(ATOMS)
        if kind < 0.85:
            return [self.value(depth + 1) for _ in range(self.rng.randint(0, 3))]
        return {self.text(4): self.value(depth + 1) for _ in range(self.rng.randint(0, 3))}

    def axes(self) -> tuple[Axis, ...]:
        axes = []
        for name in self.some(self.name):
            values = tuple(self.value() for _ in range(self.rng.randint(1, 3)))
            axes.append(Axis(name, values, to_literal(list(values))))
        if self.rng.random() < 0.2:
            axes.append(Axis("rr", parse_each("range(0, 4)"), "range(0, 4)"))
        return tuple(axes)

    def file(self) -> str:
        return self.line().replace("/", "").replace("~", "").replace("..", ".") or "f"

    def resources(self) -> Resources:
        return Resources(
            cpus=self.rng.choice([None, 2]),
            gpus=self.rng.choice([None, 0]),
            memory_bytes=self.rng.choice([None, 1 << 30, 12345, 1500 << 10]),
            walltime_s=self.rng.choice([None, 90, 36000, 100000]),
            queue=self.rng.choice([None, self.line()]),
            native=self.some(self.line),
            modules=self.some(self.line),
            env=tuple((name, self.text(8)) for name in self.some(self.name)),
            setup=self.some(self.text),
        )

    def step(self, name: str) -> Step:
        kind = self.rng.choice(list(StepKind))
        code = "" if kind is StepKind.NOTEBOOK else clean_code(self.rng.choice(CODES[kind]))
        axes = self.axes()
        step = Step(
            name=name,
            code=code,
            kind=kind,
            kernel=self.rng.choice(["ir", "my kernel"]) if kind is StepKind.KERNEL else None,
            notebook=self.rng.choice(["my notebook.ipynb", "a/b.ipynb"]) if kind is StepKind.NOTEBOOK else None,
            description=clean_description(self.text(15)) if self.rng.random() < 0.7 else "",
            after=self.some(self.name),
            inputs=self.some(lambda: self.rng.choice(["a.b", "zz"])),
            outputs=("x",) if kind is StepKind.PYTHON and "x=" in code.replace(" ", "") else (),
            params={f"p{key}": self.value() for key in self.some(self.name)},
            each=axes,
            is_zipped=len({len(axis.values) for axis in axes}) == 1 and self.rng.random() < 0.5,
            files_in=self.some(self.file),
            tags=self.some(self.line),
            resources=self.resources(),
            retries=self.rng.choice([0, 2]),
            is_gate=(gate := self.rng.choice(["", "release", "here"])) == "release" or (gate == "here" and kind not in {StepKind.SHELL, StepKind.SCRIPT}),
            is_gate_release=gate == "release",
            no_cache=self.rng.choice([False, True]),
            hold_s=self.rng.choice([None, None, 1800]),
            hold_on_failure_s=self.rng.choice([None, None, 90]),
            warn_s=self.rng.choice([None, 300]),
            executor=self.rng.choice([None, "local"]),
        )
        forms = {name: self.rng.choice(FORMS) for name in step.outputs if self.rng.random() < 0.5}
        return replace(step, formats=forms, reuse_kernel=not reuse_conflict(step) and self.rng.random() < 0.5)

    def workflow(self) -> Workflow:
        names = list(dict.fromkeys(self.name() for _ in range(self.rng.randint(1, 4))))
        told = self.rng.choice([[], [""], ["", names[0]], [names[-1], "zz"]])
        return Workflow(
            name="wf",
            description=self.rng.choice(["", self.text(10).strip()]),
            directory=self.rng.choice([None, "a b/c"]),
            common=self.rng.choice([{}, {"common": "import numpy as np\n", "b": "z=1\n"}]),
            markdown={name: clean_code("# " + self.text(10).replace("\n", "x")) for name in told},
            steps={name: self.step(name) for name in names},
        )
