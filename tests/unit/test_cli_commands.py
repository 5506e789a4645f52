"""The command line over a manager in memory: words, exit codes, what goes to stdout and what to stderr."""

import argparse
import copy
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kale_magic import errors
from kale_magic.cli import arguments, gc, look, shapes
from kale_magic.cli.chance import chances, shell_chances
from kale_magic.cli.console import Console, write
from kale_magic.cli.exits import Exit, code_of, sentence
from kale_magic.cli.follow import Progress, follow_run
from kale_magic.cli.main import main
from kale_magic.cli.scope import Below
from kale_magic.model.events import Event
from tests.unit.cli_shell import MANAGER, TerminalClient, notebook

STEPS = {
    "relax": {"state": "completed", "outputs": ["atoms"], "node": "n1", "counts": {"completed": 1}},
    "curve": {
        "state": "running",
        "points": {"0": {"state": "completed", "params": {"k": "1"}}, "1": {"state": "running", "params": {"k": "2"}}},
    },
}


@pytest.fixture
def client(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fake = TerminalClient(str(tmp_path))
    monkeypatch.setattr("kale_magic.client.Client.connect", lambda **_: fake)
    return fake


@pytest.fixture
def no_manager(monkeypatch):
    def refuse(**_):
        raise errors.ManagerUnavailable("No manager runs.", "Start it with: jupyter kale manager start.")

    monkeypatch.setattr("kale_magic.client.Client.connect", refuse)


def interrupted(*_, **__):
    raise KeyboardInterrupt


def with_runs(client, *runs):
    """Add runs that have their workflow on disk, where the points of a sweep are looked up."""
    for run in runs:
        folder = Path(client.add(run, copy.deepcopy(STEPS))["folder"])
        folder.mkdir(parents=True)
        (folder / "workflow.yaml").write_text(
            "schema: kale-magic.org/v1\nname: eos\nsteps:\n  relax:\n    code: |\n      1\n"
            "  curve:\n    each:\n      k: [1, 2]\n    code: |\n      k\n"
        )


# -- words


@pytest.mark.parametrize(
    "words",
    [[], ["nonsense"], ["status", "--jso"], ["logs"], ["logs", "a", "--tail", "x"], ["wait", "--timeout", "-1"], ["wait", "--timeout", "nan"],
     ["run"], ["run", "x.ipynb", "--params", "n"], ["run", "x.ipynb", "--only", "a,,b"], ["export", "x.ipynb"], ["attach", "a"],
     ["attach", "a", "--console", "--exec", "1"], ["kernels"], ["kernels", "install"], ["kernels", "install", "a", "--write", "--main"],
     ["kernels", "list", "--prefix", "p", "--sys-prefix"],
     ["manager"], ["manager", "kill"], ["gc", "--older-than", "soon"], ["logs", "a", "--stderr", "--script"], ["export", "x", "-o", "y", "--format", "doc"]],
)  # fmt: skip
def test_wrong_words_are_exit_code_2_and_one_sentence_on_stderr(words, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("kale: ")
    assert "Traceback" not in err


def test_a_misspelt_command_is_guessed(capsys):
    main(["statsu"])
    assert "did you mean status?" in capsys.readouterr().err


def every_command():
    parser = arguments.build_parser()
    todo, found = [([], parser)], []
    while todo:
        words, part = todo.pop()
        found.append((words, part))
        for action in part._actions:
            if isinstance(action, argparse._SubParsersAction):
                todo += [([*words, name], sub) for name, sub in action.choices.items()]
    return found


@pytest.mark.parametrize(
    ("words", "parser"), every_command(), ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_every_command_has_help_with_a_line_for_each_option(words, parser, capsys):
    assert main([*words, "-h"]) == 0
    out = capsys.readouterr().out
    for action in parser._actions:
        assert all(flag in out for flag in action.option_strings)
        assert action.help or not action.option_strings


@pytest.mark.parametrize(
    ("words", "parser"), every_command(), ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_every_command_has_a_function(words, parser):
    handler = parser.get_default("handler")
    if handler:
        module, _, name = handler.partition(":")
        __import__(f"kale_magic.cli.{module}")
        assert callable(getattr(sys.modules[f"kale_magic.cli.{module}"], name))
    else:
        assert words in ([], ["manager"], ["kernels"], ["pool"])


def test_parameters_are_literals_where_they_are_some():
    assert arguments.parameter("n=10") == ("n", 10)
    assert arguments.parameter("name=x y=1") == ("name", "x y=1")
    assert arguments.parameter("l=[1, 'a']") == ("l", [1, "a"])


@pytest.mark.parametrize(
    ("text", "expected"), [("30d", 2592000), ("12h", 43200), ("2w", 1209600), ("1", 86400), ("0d", 0)]
)
def test_ages(text, expected):
    assert arguments.age(text) == expected


# -- errors


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("x"), 2), (errors.UnknownRunError("x"), 2), (errors.UnknownStepError("x"), 2), (errors.ConfigError("x"), 2),
        (FileNotFoundError(2, "No such file", "f"), 2), (errors.UnknownExecutorError("x"), 2),
        (errors.ManagerUnavailable("x"), 3), (errors.ProtocolVersionError("x"), 3), (errors.StoreError("x"), 3),
        (errors.SubmitError("x", transient=True), 3), (TimeoutError("x"), 4),
        (errors.SubmitError("x"), 1), (errors.CycleError("x"), 1), (errors.StepSyntaxError("x"), 1), (errors.FormatError("x"), 1), (errors.StepFailed("x"), 1),
    ],
)  # fmt: skip
def test_each_error_has_its_exit_code(error, code):
    assert code_of(error) == code


def test_sentences_are_one_line_and_speak_of_this_command_line():
    assert sentence(errors.UsageError("Two\nlines.", "See %kale_logs fit.")) == "Two lines. See jupyter kale logs fit."
    assert sentence(FileNotFoundError(2, "No such file", "f")) == "f: No such file."


def test_no_manager_is_exit_code_3_and_no_traceback(no_manager, capsys):
    assert main(["status"]) == 3
    assert capsys.readouterr().err == "kale: No manager runs. Start it with: jupyter kale manager start.\n"


def test_a_reader_that_hung_up_is_no_error(client, monkeypatch):
    def broken(*_):
        raise BrokenPipeError

    monkeypatch.setattr(look, "show_run", broken)
    monkeypatch.setattr("os.dup2", lambda *_: None)
    client.add("eos-1", copy.deepcopy(STEPS))
    assert main(["status"]) == Exit.BROKEN_PIPE


def test_ctrl_c_is_exit_code_130_without_a_traceback(client, monkeypatch, capsys):
    monkeypatch.setattr(client, "queue", interrupted)
    assert main(["queue"]) == 130
    assert capsys.readouterr().err == ""


# -- status, runs, queue


def test_status_shows_the_newest_run_of_this_folder(client, tmp_path, capsys):
    client.add("eos-1", copy.deepcopy(STEPS))
    client.add("eos-2", STEPS)
    client.add("other-3", STEPS)["workflow_folder"] = "/elsewhere"
    client.add("below-4", STEPS)["workflow_folder"] = str(tmp_path / "sub")
    assert main(["status"]) == 0
    assert capsys.readouterr().out.startswith("below-4 running: 1 of 2 steps completed, 1 running")
    assert main(["status", "eos-1"]) == 0
    assert main(["runs", "--json"]) == 0
    out = capsys.readouterr().out
    assert [run["run"] for run in json.loads(out[out.index("[\n") :])] == ["below-4", "eos-2", "eos-1"]


def test_status_json_has_the_keys_of_the_interface_and_no_others(client, capsys):
    client.add("eos-1", copy.deepcopy(STEPS))
    assert main(["status", "eos-1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert tuple(found) == (*shapes.RUN_KEYS, "steps")
    assert tuple(found["steps"]["relax"]) == shapes.STEP_KEYS
    assert found["steps"]["relax"]["outputs"] == ["atoms"]
    assert tuple(found["steps"]["curve"]) == (*shapes.STEP_KEYS, "points")
    assert found["steps"]["curve"]["points"]["1"] | {"params": {}} == dict.fromkeys(shapes.STEP_KEYS) | {
        "state": "running",
        "outputs": [],
        "params": {},
    }


def test_status_is_exit_code_0_for_a_failed_run_and_shows_its_traceback(client, capsys):
    error = {"ename": "NameError", "evalue": "x", "traceback": ["\x1b[31mNameError\x1b[0m: x"]}
    client.add("eos-1", {"fit": {"state": "failed", "error": error}}, state="failed")
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert "fit:\nNameError: x\n" in out
    assert "\x1b" not in out


def test_report_writes_the_newest_run_and_needs_a_file(client, tmp_path, capsys):
    client.add("eos-1", copy.deepcopy(STEPS))
    assert main(["report", "-o", str(tmp_path / "run.html")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'run.html'} written: eos-1 running\n"
    assert "<h1>eos-1" in (tmp_path / "run.html").read_text()
    assert main(["report"]) == 2
    assert main(["report", "-o", str(tmp_path / "no" / "run.html")]) == 2
    assert "can't be written" in capsys.readouterr().err


def test_unknown_run_is_exit_code_2_with_a_guess(client, capsys):
    client.add("eos-20261122-7f3a", STEPS)
    assert main(["status", "eos-20261122-7f3b"]) == 2
    assert "Did you mean eos-20261122-7f3a?" in capsys.readouterr().err


def test_no_run_yet_is_said(client, capsys):
    assert main(["status"]) == 2
    assert "There is no run of a workflow in" in capsys.readouterr().err
    assert main(["runs"]) == 0
    assert capsys.readouterr().out == "no runs\n"


def test_queue_is_a_list(client, monkeypatch, capsys):
    monkeypatch.setattr(
        client,
        "queue",
        lambda: [{"run": "eos-1", "step": "fit", "point": None, "state": "queued", "reason": "waits for 2 of 4 cores"}],
    )
    assert main(["queue", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["reason"] == "waits for 2 of 4 cores"
    assert main(["queue"]) == 0
    assert "waits for 2 of 4 cores" in capsys.readouterr().out


def test_folder_beside_with_the_same_beginning_is_not_below():
    assert Below(folder=Path("/w/a")).has({"workflow_folder": "/w/a/b"})
    assert not Below(folder=Path("/w/a")).has({"workflow_folder": "/w/ab"})
    assert not Below(folder=Path("/w/a")).has({})


# -- wait


@pytest.mark.parametrize(("state", "code"), [("completed", 0), ("failed", 1), ("cancelled", 1)])
def test_wait_for_a_run_tells_how_it_ended(client, state, code, capsys):
    client.add("eos-1", {"fit": {"state": "running"}})
    client.script += [("fit", None, "state", state, ""), (None, None, "run", state, "")]
    assert main(["wait", "--json"]) == code
    assert json.loads(capsys.readouterr().out)["state"] == state


@pytest.mark.parametrize(("state", "code"), [("completed", 0), ("cached", 0), ("failed", 1), ("cancelled", 1)])
def test_wait_for_a_step_tells_how_it_ended(client, state, code, capsys):
    client.add("eos-1", {"fit": {"state": "running"}, "more": {"state": "waiting"}})
    client.script.append(("fit", None, "state", state, f"{state}: because"))
    assert main(["wait", "fit"]) == code
    assert capsys.readouterr().out == f"eos-1/fit {state}: because\n"


def test_wait_for_a_point_prints_that_points_object(client, capsys):
    with_runs(client, "eos-1")
    client.script.append(("curve", 1, "state", "completed", ""))
    assert main(["wait", "curve[k=2]", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "completed"


@pytest.mark.parametrize("what", ["eos-1", "fit"])
def test_wait_that_takes_too_long_is_exit_code_4(client, what, capsys):
    client.add("eos-1", {"fit": {"state": "running"}})
    assert main(["wait", what, "--timeout", "0"]) == 4
    assert "has not ended within 0 s" in capsys.readouterr().err


def test_a_word_that_is_a_step_here_is_no_beginning_of_a_run(client):
    client.add("fit-2026-1", {"fit": {"state": "running"}})
    assert not look.is_run(client, "fit")
    assert look.is_run(client, "fit-2026")
    assert look.is_run(client, "fit-2026-1")
    assert look.is_run(client, None)
    assert not look.is_run(client, "fit-2026-1/fit")


def test_progress_is_a_line_per_change_of_a_step_and_per_failed_point(client, capsys):
    client.add("eos-1", copy.deepcopy(STEPS))
    client.script += [
        ("relax", None, "state", "queued", ""), ("relax", None, "state", "running", ""), ("relax", None, "state", "running", ""),
        ("curve", 1, "state", "failed", "NameError: \x1b[31mx"), ("curve", 0, "state", "completed", ""), ("curve", None, "state", "failed", ""),
        ("relax", None, "state", "cancelled", "cancelled: curve failed"), (None, None, "run", "failed", ""),
    ]  # fmt: skip
    assert follow_run(client, "eos-1", 0, Progress(Console()), None)["state"] == "failed"
    lines = [line[2:] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["relax running", "curve[1] failed: NameError: x", "curve failed", "relax cancelled: curve failed"]


def test_progress_bar_is_drawn_again_on_a_terminal_and_taken_away(client, monkeypatch, capsys):
    monkeypatch.setattr(Console, "is_live", True)
    client.add("eos-1", {"a": {"state": "running"}, "b": {"state": "waiting"}})
    client.script += [
        ("a", None, "state", "completed", ""),
        ("b", None, "state", "failed", "boom"),
        (None, None, "run", "failed", ""),
    ]
    follow_run(client, "eos-1", 0, Progress(Console()), None)
    err = capsys.readouterr().err
    assert "0/2" in err
    assert "✗ b failed: boom" in err
    assert "a completed" not in err
    assert err.endswith("\r\x1b[2K")


def test_events_of_another_kind_are_passed_over(capsys):
    progress = Progress(Console())
    progress.event(Event(1, "r", "fit", None, "", "note", "running"))
    progress.event(Event(2, "r", None, None, "", "state", "running"))
    progress.event(Event(3, "r", "fit", None, "", "state", "waiting"))
    assert capsys.readouterr().err == ""


# -- logs


@pytest.fixture
def logs(client, tmp_path):
    with_runs(client, "eos-1")
    for part, text in (("relax", "one\ntwo\nthree\n"), ("curve/0", "k 1\n"), ("curve/1", "k 2")):
        folder = tmp_path / ".kale/runs/eos-1/steps" / part
        folder.mkdir(parents=True)
        (folder / "stdout.log").write_text(text)
    return tmp_path / ".kale/runs/eos-1/steps"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["relax"], "one\ntwo\nthree\n"),
        (["relax", "--tail", "2"], "two\nthree\n"),
        (["relax", "--tail", "0"], ""),
        (["eos-1/curve[1]"], "k 2\n"),
        (["curve[k=1]"], "k 1\n"),
        (["curve"], "==> curve[0] <==\nk 1\n\n==> curve[1] <==\nk 2\n"),
        (["relax", "--follow"], "one\ntwo\nthree\n"),
        (["relax", "--follow", "--tail", "1"], "three\n"),
    ],
)
def test_logs(logs, words, expected, capsys):
    assert main(["logs", *words]) == 0
    assert capsys.readouterr().out == expected


def test_logs_of_a_step_that_printed_nothing(logs, capsys):
    assert main(["logs", "relax", "--stderr"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "kale: eos-1/relax is completed: it has printed nothing to stderr.\n"


def test_following_a_sweep_asks_which_point(logs, capsys):
    assert main(["logs", "curve", "--follow"]) == 2
    assert "curve[k=1], curve[k=2]" in capsys.readouterr().err


def test_following_prints_what_comes_until_the_end_and_a_new_attempt_from_its_start(logs, client, monkeypatch, capsys):
    log = logs / "curve/1/stdout.log"
    steps = iter(
        [
            lambda: log.write_text("k 2\nmore\n"),
            lambda: log.write_text("again\n"),
            lambda: client.apply("curve", 1, "completed", ""),
        ]
    )
    monkeypatch.setattr(look.time, "sleep", lambda _: next(steps)())
    assert main(["logs", "curve[1]", "--follow"]) == 0
    assert capsys.readouterr().out == "k 2\nmore\nagain\n"


# -- cancel, stop, attach


def test_cancel_a_run_a_step_and_a_point(client, capsys):
    with_runs(client, "eos-1")
    for word, asked in (
        ("eos-1", ("eos-1", None, None)),
        ("relax", ("eos-1", "relax", None)),
        ("curve[k=2]", ("eos-1", "curve", 1)),
    ):
        assert main(["cancel", word]) == 0
        assert client.asked[-1] == ("cancel", *asked)
    assert main(["cancel", "eos-1", "--json"]) == 0
    assert '"cancelled"' in capsys.readouterr().out


def test_acting_on_a_step_that_is_live_in_two_runs_lists_them(client, capsys):
    client.add("eos-1", {"fit": {"state": "running"}})
    client.add("eos-2", {"fit": {"state": "running"}})
    for command in (["cancel", "fit"], ["stop", "fit"], ["attach", "fit", "--exec", "1"]):
        assert main(command) == 2
        err = capsys.readouterr().err
        assert "eos-1/fit" in err
        assert "eos-2/fit" in err
    assert not client.asked


def test_stop_interrupts_one_job(client, capsys):
    with_runs(client, "eos-1")
    assert main(["stop", "curve[1]"]) == 0
    assert client.asked == [("stop", "eos-1", "curve", 1)]
    assert main(["stop", "curve"]) == 2
    assert "curve has 2 points" in capsys.readouterr().err


def test_attach_to_what_is_over_says_how_to_look_at_it(client, capsys):
    client.add("eos-1", {"fit": {"state": "failed", "reason": "NameError: x"}})
    assert main(["attach", "fit", "--exec", "1"]) == 2
    assert "its kernel is gone. See what it printed: jupyter kale logs eos-1/fit" in capsys.readouterr().err


def test_attach_to_what_does_not_start_in_time_is_exit_code_4(client, capsys):
    client.add("eos-1", {"fit": {"state": "queued", "reason": "waits for 2 of 4 cores"}})
    assert main(["attach", "fit", "--exec", "1", "--timeout", "0"]) == 4
    assert "eos-1/fit is queued (waits for 2 of 4 cores)" in capsys.readouterr().err


# -- run, export, import, check

GOOD = ("%kale_workflow eos", "%%kale_step a --outputs x --params n=2\nx = n", "%%kale_step b\nprint(x)")


def test_run_submits_what_the_words_say_and_sums_up(client, tmp_path, capsys):
    notebook(tmp_path / "eos.ipynb", *GOOD)
    client.submitted_state = "completed"
    done = tmp_path / ".kale/runs/trial/steps/a"
    done.mkdir(parents=True)
    (done / "step.ipynb").touch()
    assert main(["run", "eos.ipynb", "--name", "trial", "--only", "a", "--params", "n=3", "n=4"]) == 0
    _, workflow, fields = client.asked[0]
    assert workflow["name"] == "eos"
    assert (fields["name"], fields["only"], fields["params"]) == ("trial", ["a"], {"n": "4"})
    assert Path(fields["folder"]) == tmp_path
    out, err = capsys.readouterr()
    assert "trial completed: 1 of 1 steps completed" in out
    assert "executed notebooks:\n  .kale/runs/trial/steps/a/step.ipynb\n" in out
    assert err == f"kale: run trial in {tmp_path}/.kale/runs/trial\n"


def test_run_of_a_failing_workflow_is_exit_code_1_and_json_is_all_of_stdout(client, tmp_path, capsys):
    notebook(tmp_path / "eos.ipynb", *GOOD)
    client.submitted_state = "failed"
    assert main(["run", "eos.ipynb", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["state"] == "failed"


def test_run_keeps_to_the_folder_that_the_workflow_names(client, tmp_path, monkeypatch):
    (tmp_path / "nb").mkdir()
    notebook(tmp_path / "nb/eos.ipynb", "%kale_workflow eos --dir ../data", *GOOD[1:])
    client.submitted_state = "completed"
    assert main(["run", "nb/eos.ipynb"]) == 0
    assert Path(client.asked[0][2]["folder"]) == tmp_path / "data"


@pytest.mark.parametrize(
    ("cells", "words", "code", "said"),
    [
        (["x = 1"], [], 1, "eos.ipynb declares no step"),
        (["%%kale_step a --after b\n1", "%%kale_step b --after a\n1"], [], 1, "a"),
        (["%%kale_step a --after nowhere\n1"], [], 1, "nowhere"),
        (["%%kale_step a\nx ="], [], 1, "cell 1"),
        (GOOD, ["--only", "c"], 2, "There are: a, b."),
        (GOOD, ["--params", "m=1"], 2, "There are: n."),
    ],
)
def test_run_that_can_not_be_submitted(client, tmp_path, cells, words, code, said, capsys):
    notebook(tmp_path / "eos.ipynb", *cells)
    assert main(["run", "eos.ipynb", *words]) == code
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not client.asked


def test_ctrl_c_without_a_terminal_says_that_the_run_goes_on(client, tmp_path, monkeypatch, capsys):
    notebook(tmp_path / "eos.ipynb", *GOOD)

    monkeypatch.setattr(client, "events", interrupted)
    assert main(["run", "eos.ipynb", "--name", "r"]) == 130
    assert "the run goes on; look: jupyter kale status r, end it: jupyter kale cancel r" in capsys.readouterr().err


@pytest.mark.parametrize(("answer", "is_cancelled"), [("y", True), ("", False)])
def test_ctrl_c_on_a_terminal_asks(client, tmp_path, monkeypatch, answer, is_cancelled):
    notebook(tmp_path / "eos.ipynb", *GOOD)

    monkeypatch.setattr(client, "events", interrupted)
    monkeypatch.setattr(Console, "is_asking", True)
    monkeypatch.setattr("builtins.input", lambda: answer)
    assert main(["run", "eos.ipynb", "--name", "r"]) == 130
    assert (("cancel", "r", None, None) in client.asked) is is_cancelled


def test_export_and_import_round_trip_to_the_same_bytes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    notebook(tmp_path / "eos.ipynb", *GOOD)
    assert main(["export", "eos.ipynb", "-o", "eos.yaml"]) == 0
    assert main(["import", "eos.yaml", "-o", "back.ipynb"]) == 0
    assert main(["export", "back.ipynb", "-o", "again.yaml"]) == 0
    assert Path("eos.yaml").read_bytes() == Path("again.yaml").read_bytes()
    capsys.readouterr()
    assert main(["export", "eos.yaml", "-o", "-"]) == 0
    assert capsys.readouterr().out == Path("eos.yaml").read_text()
    assert main(["import", "eos.yaml", "-o", "back.ipynb"]) == 2
    assert main(["import", "eos.yaml", "-o", "back.ipynb", "--force"]) == 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    "words",
    [["export", "gone.ipynb", "-o", "x"], ["export", ".", "-o", "x"], ["export", "eos.ipynb", "-o", "no/where.yaml"]],
)
def test_files_that_are_not_there_are_wrong_usage(tmp_path, monkeypatch, words, capsys):
    monkeypatch.chdir(tmp_path)
    notebook(tmp_path / "eos.ipynb", *GOOD)
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_check_warns_of_what_a_person_would_rather_know(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    notebook(
        tmp_path / "w.ipynb",
        "%kale_workflow w --executor slurm",
        "%%kale_common\nDATA = '/home/me/data'",
        "%%kale_step a --outputs x,idle --walltime 10\nx = open('/scratch/me/x').read(); idle = '/tmp/y'",
        "%%kale_step b --outputs result --files-in nothing.*\nresult = x, 'a/b', '/'",
        "%%kale_step c --after b --shell --walltime 10\ncat /data/big/file > out",
    )
    assert main(["check", "w.ipynb", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["errors"] == []
    assert found["steps"] == ["a", "b", "c"]
    said = "\n".join(found["warnings"])
    for part in ("the common code names '/home/me/data'", "step a: no step uses its output idle", "step a names '/scratch/me/x'",
                 "step b has no --walltime", "no file matches --files-in nothing.*", "step c names '/data/big/file'"):  # fmt: skip
        assert part in said
    for part in ("/tmp/y", "a/b'", "step a has no --walltime"):
        assert part not in said
    assert len([line for line in found["warnings"] if "no cores and no memory" not in line]) == 7  # b's result is used by nobody, and b has a child


def test_check_warns_of_a_file_that_a_step_makes_for_which_nobody_waits(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    notebook(
        tmp_path / "w.ipynb",
        "%kale_workflow w",
        "%%kale_step a --files-out t.csv,u.csv\n1",
        "%%kale_step b --files-in t.csv\n1",
        "%%kale_step c --after a --outputs x\nx = 1",
        "%%kale_step d --files-in u.csv\nx",
    )
    assert main(["check", "w.ipynb", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == ["step b reads t.csv, which a makes, and does not wait for it: --after a"]


def test_check_warns_of_kernels_without_version_and_steps_without_resources(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    notebook(
        tmp_path / "w.ipynb",
        "%kale_workflow w --executor slurm",
        "%%kale_step a --kernel ir --walltime 10 --cpus 2\n1",
        "%%kale_step b --kernel julia-1.10 --walltime 10\n1",
    )
    assert main(["check", "w.ipynb", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == [
        "step a: the kernel ir says no version, so it is what each machine has by that name",
        "step b asks for no cores and no memory: slurm gives it the queue's default",
    ]


def test_check_says_which_formats_would_lose_what(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    notebook(tmp_path / "w.ipynb", "%kale_workflow w", "%%kale_step a --tags x --retries 2\nprint(1)")
    assert main(["check", "w.ipynb"]) == 0
    said = capsys.readouterr().out
    assert "export: cwl can't hold --tags (step a): left out" in said
    assert "export: fireworks can't hold --retries (step a): left out" in said
    assert "snakemake can't hold --retries" not in said
    assert "no warnings" in said


@pytest.mark.parametrize(
    ("code", "common", "said"),
    [
        ("import random\nx = random.random()", "", ["`random.random` without a seed"]),
        ("import random\nrandom.seed(1)\nx = random.random()", "", []),
        ("x = np.random.normal(size=3)", "import numpy as np\nnp.random.seed(3)", []),
        ("x = np.random.normal(size=3)", "import numpy as np", ["`np.random.normal` without a seed"]),
        ("rng = np.random.default_rng()", "", ["`np.random.default_rng()` without a seed"]),
        ("rng = np.random.default_rng(3)\nx = rng.normal()", "", []),
        ("import time\nstart = time.time()\nf()\nprint(time.time() - start)", "", []),
        ("import time\nx = time.time()", "", ["the clock (`time.time`)"]),
        ("import uuid\nx = str(uuid.uuid4())", "", ["`uuid.uuid4`"]),
        ("import os\nx = os.listdir()\ny = sorted(os.listdir('a'))", "", ["the order of `os.listdir`, which is not sorted"]),
        ("!date\nx = 1", "", []),
        ("x = rng.random()\nobj.random.choice()", "", []),
    ],
)
def test_chance_in_python_that_can_be_seen(code, common, said):
    assert chances(code, common) == said


def test_chance_in_shell_that_can_be_seen():
    assert shell_chances("x=$RANDOM; y=$(date +%s); shuf a") == ["`RANDOM`", "`date`", "`shuf`"]
    assert shell_chances("echo update $(dated)") == []


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["%%kale_step a\n("], "cell 1"),
        (["%%kale_step a --afte b\n1"], "--after"),
        ([], "declares no step"),
        (["%%kale_step a --inputs q\nq"], "q"),
    ],
)
def test_check_of_a_wrong_workflow_is_exit_code_1(tmp_path, monkeypatch, cells, said, capsys):
    monkeypatch.chdir(tmp_path)
    notebook(tmp_path / "w.ipynb", *cells)
    assert main(["check", "w.ipynb"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("error: ")
    assert said in out


# -- manager, gc


def test_manager_status_has_the_keys_of_the_interface(client, capsys):
    assert main(["manager", "status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        key: MANAGER[key] for key in ("pid", "host", "version", "address", "started_at", "runs")
    }
    assert main(["manager", "status"]) == 0
    assert "25 MB" in capsys.readouterr().out


def test_manager_status_without_a_manager_is_exit_code_3(no_manager):
    assert main(["manager", "status"]) == 3


def ended(run, folder, days):
    moment = datetime.now(UTC) - timedelta(days=days)
    return {"run": run, "state": "completed", "ended_at": moment.isoformat(), "folder": str(folder)}


def old_run(client, tmp_path, name, days, **changes):
    folder = tmp_path / ".kale/runs" / name
    folder.mkdir(parents=True)
    (folder / "workflow.yaml").write_text("x" * 2048)
    client.add(name, {}).update(ended(name, folder, days) | changes)
    return folder


def test_gc_removes_old_ended_runs_below_this_folder_only(client, tmp_path, capsys):
    old, young = old_run(client, tmp_path, "old", 31), old_run(client, tmp_path, "young", 29)
    live, other = (
        old_run(client, tmp_path, "live", 31, state="running"),
        old_run(client, tmp_path, "other", 31, workflow_folder="/elsewhere"),
    )
    assert main(["gc", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"removed": [{"run": "old", "bytes": 2048}], "bytes": 2048}
    assert [path.exists() for path in (old, young, live, other)] == [False, True, True, True]
    assert main(["gc", "--older-than", "12h", "--yes"]) == 0
    assert not young.exists()


def test_gc_asks_and_removes_nothing_when_there_is_nobody_or_no_yes(client, tmp_path, monkeypatch, capsys):
    old = old_run(client, tmp_path, "old", 31)
    assert main(["gc"]) == 2
    monkeypatch.setattr(Console, "is_asking", True)
    monkeypatch.setattr("builtins.input", lambda: "n")
    assert main(["gc"]) == 0
    assert old.exists()
    assert "old  ended" in capsys.readouterr().err
    monkeypatch.setattr("builtins.input", lambda: "y")
    assert main(["gc"]) == 0
    assert not old.exists()


def test_gc_touches_nothing_that_is_no_run_folder(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    assert not gc.is_old(ended("x", precious, 31), 1.0, datetime.now(UTC))
    link = tmp_path / ".kale/runs/link"
    link.parent.mkdir(parents=True)
    link.symlink_to(precious)
    assert not gc.is_old(ended("x", link, 31), 1.0, datetime.now(UTC))
    assert not gc.is_old({"run": "x", "state": "completed", "folder": str(link.parent)}, 1.0, datetime.now(UTC))


# -- the console


def test_text_that_a_stream_can_not_show_is_shown_by_its_code(tmp_path):
    with (tmp_path / "out").open("w", encoding="ascii") as stream:
        write(stream, "é✓\n")
        assert Console().is_ascii(stream)
    assert (tmp_path / "out").read_text() == "\\xe9\\u2713\n"
