"""What is said to Slurm and what it says; no Slurm."""

import subprocess

import pytest

from kale_magic.abc import Environment
from kale_magic.executors import slurm_text
from kale_magic.executors.slurm_text import Line, ScriptParts
from kale_magic.model.resources import Resources
from kale_proxy.spec import JobSpec, LimitSpec


def spec(**changes):
    values = {"run": "r-1", "step": "fit", "point": None, "attempt": 1, "uuid": "ab", "folder": "/w/s/fit", "cwd": "/w", "kind": "python", "code": "1"}
    return JobSpec(**{**values, **changes})


def script(asked=None, *, tasks=None, first=0, environment=None, **changes):
    environment = environment or Environment("/opt/py/bin/python", ())
    parts = ScriptParts("kale-ab", spec(**changes), environment, asked or Resources(), tasks, "/w/s/fit", first)
    return slurm_text.script(parts)


def is_bash(text):
    return subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False).stderr == ""


def test_everything_that_a_step_asks_for_is_a_directive():
    asked = Resources(
        nodes=2, ntasks=4, cpus=3, gpus=2, memory_bytes=4 << 30, walltime_s=5400, queue="gpu", account="a1", qos="high",
        constraint="skylake&ib", reservation="r7", native=("#SBATCH --exclusive", "--mail-type=END"),
    )  # fmt: skip
    assert slurm_text.directives(asked) == [
        "#SBATCH --nodes=2", "#SBATCH --ntasks=4", "#SBATCH --cpus-per-task=3", "#SBATCH --gres=gpu:2", "#SBATCH --mem=4096M",
        "#SBATCH --time=01:30:00", "#SBATCH --partition=gpu", "#SBATCH --account=a1", "#SBATCH --qos=high",
        "#SBATCH --constraint=skylake&ib", "#SBATCH --reservation=r7", "#SBATCH --exclusive", "#SBATCH --mail-type=END",
    ]  # fmt: skip
    assert slurm_text.directives(Resources(gpus=1)) == ["#SBATCH --gres=gpu:1"]
    assert slurm_text.directives(Resources()) == []


def test_a_script_can_be_read_and_names_the_job_after_what_the_step_asks():
    text = script(Resources(cpus=2))
    assert text.startswith("#!/bin/bash\n# Step fit of run r-1, attempt 1; written by Kale")
    assert text.index("--cpus-per-task=2") < text.index("#SBATCH --job-name=kale-ab\n")
    assert "#SBATCH --no-requeue\n" in text
    assert text.endswith('exec /opt/py/bin/python -m kale_proxy run "$folder/job.json"\n')
    assert is_bash(text)


@pytest.mark.parametrize(
    ("asked", "changes", "line"),
    [
        (Resources(), {}, "#SBATCH --signal=B:USR1@120"),
        (Resources(), {"limits": LimitSpec(walltime_s=80)}, "#SBATCH --signal=B:USR1@20"),
        (Resources(), {"warn_s": 600}, "#SBATCH --signal=B:USR1@600"),
        (Resources(native=("#SBATCH --signal=B:USR1@9",)), {}, "#SBATCH --signal=B:USR1@9"),
        (Resources(ntasks=2), {}, None),  # srun would get it
    ],
)
def test_slurm_is_asked_to_tell_the_worker_before_the_end_once(asked, changes, line):
    found = [text for text in script(asked, **changes).splitlines() if "--signal" in text]
    assert found == ([] if line is None else [line])


def test_a_sweep_is_one_script_in_which_each_point_finds_its_folder():
    text = script(tasks=(0, 1, 2, 5), point=1000)
    assert "# Step fit[0-2,5] of run r-1" in text
    assert "#SBATCH --array=0-2,5\n" in text
    assert 'folder=/w/s/fit/"$SLURM_ARRAY_TASK_ID"\n' in text
    later = script(tasks=(0, 1), first=1000, point=1000)
    assert "# Step fit[1000-1001] of run" in later
    assert 'folder=/w/s/fit/"$((SLURM_ARRAY_TASK_ID + 1000))"\n' in later
    assert is_bash(later)


@pytest.mark.parametrize("folder", ["/w/my runs/s", "/w/it's", '/w/a"b', "/w/50%", "/w/$HOME", "/w/a;rm -rf b", "/w/back\\slash", "/w/`id`"])
def test_no_folder_can_say_more_than_its_name(folder):
    text = script(folder=folder, cwd=folder)
    assert is_bash(text)
    run = text.replace("exec /opt", "echo /opt") + '\nprintf "%s" "$folder" >&2'
    done = subprocess.run(["bash"], input=run, text=True, capture_output=True, check=True)
    assert done.stderr == folder
    assert f"#SBATCH --output={slurm_text._quoted(folder.replace('%', '%%') + '/slurm.log')}\n" in text


def test_a_line_of_the_environment_that_fails_ends_the_step_with_what_it_said():
    environment = Environment("/opt/py/bin/python", (), ("gcc/12",), ("source it's.sh",), (("A", 'b "$HOME"'),))
    text = script(environment=environment)
    assert is_bash(text)
    assert "eval 'module load gcc/12' >>\"$log\" 2>&1 || exec /opt/py/bin/python -m kale_proxy refuse" in text
    assert 'export A="b \\"$HOME\\""\n' in text


def test_lines_of_a_batch_script_count_and_ours_come_after_them():
    code = "#!/bin/bash\n#SBATCH --nodes=2\n# a word\n\n#SBATCH --job-name=mine\nsrun a\n#SBATCH --late=1\n"
    assert slurm_text.own_directives(code) == ["#SBATCH --nodes=2", "#SBATCH --job-name=mine"]
    text = script(kind="script", code=code)
    assert text.index("--job-name=mine") < text.index("--job-name=kale-ab")


@pytest.mark.parametrize(("line", "is_array"), [("#SBATCH --array=0-3", True), ("#SBATCH -a 0-3", True), ("--array=1", True), ("#SBATCH --account=a", False)])
def test_an_array_by_hand_is_seen(line, is_array):
    assert slurm_text.asks_for_an_array([line]) is is_array


def test_lines_of_squeue_are_read():
    text = (
        "8|0-3,7%2|kale-a|PENDING|Resources|1795936032||me|debug|1|1:00\n"
        "9|N/A|kale-b|RUNNING|None|1795849632|node1|me|debug|1|UNLIMITED\n"
        "10|4|a|b|FAILED|NonZeroExitCode|N/A|node1|me|debug|1|0:00\n"
    )
    first, second, third = slurm_text.read_squeue(text)
    assert first == Line("8", (0, 1, 2, 3, 7), "kale-a", "PENDING", "Resources", 1795936032.0, "", "me", "debug", "1", "1:00")
    assert (second.tasks, second.node, second.starts_at) == (None, "node1", 1795849632.0)
    assert (third.name, third.state, third.starts_at) == ("a|b", "FAILED", None)
    with pytest.raises(ValueError, match="what is this"):
        slurm_text.read_squeue("what is this")


def test_lines_of_sacct_are_read():
    text = "7|kale-a|TIMEOUT|node1\n8_3|kale-b|CANCELLED by 1000|None assigned\n8_[4-6]|kale-b|PENDING|None assigned\n7.batch|batch|CANCELLED|node1\n9|a|b|OUT_OF_MEMORY|node[1-2]\nwhat\n"
    timeout, point, other = slurm_text.read_sacct(text)
    assert (timeout.job_id, timeout.tasks, timeout.name, timeout.state, timeout.node) == ("7", None, "kale-a", "TIMEOUT", "node1")
    assert (point.job_id, point.tasks, point.state) == ("8", (3,), "CANCELLED")
    assert (other.name, other.state, other.node) == ("a|b", "OUT_OF_MEMORY", "node[1-2]")


@pytest.mark.parametrize(("text", "numbers"), [("0-3,7", (0, 1, 2, 3, 7)), ("0-8:4", (0, 4, 8)), ("5", (5,)), ("1-3%2", (1, 2, 3))])
def test_numbers_of_an_array_are_read(text, numbers):
    assert slurm_text.read_tasks(text) == numbers


def test_numbers_of_an_array_are_written_short_and_read_back():
    assert slurm_text.write_tasks([3, 1, 2, 9, 7]) == "1-3,7,9"
    assert slurm_text.read_tasks(slurm_text.write_tasks(range(1000))) == tuple(range(1000))


def test_a_reason_for_waiting_has_slurms_word_and_ours():
    line = Line("1", None, "n", "PENDING", "Resources", None, "")
    assert slurm_text.gloss(line, "at 10:30 on 01 Dec") == "Resources: waits for nodes to become free; may start at 10:30 on 01 Dec"
    assert slurm_text.gloss(Line("1", None, "n", "PENDING", "SomethingNew", None, "")) == "SomethingNew"


@pytest.mark.parametrize(
    ("err", "words"),
    [
        (
            "sbatch: error: invalid partition specified: nope\nsbatch: error: Batch job submission failed: Invalid partition name specified\n",
            "invalid partition specified: nope; Batch job submission failed: Invalid partition name specified",
        ),
        ("allocation failure: Invalid feature specification\n", "allocation failure: Invalid feature specification"),
        ("sbatch: unrecognized option '--bogus=x'\nTry \"sbatch --help\" for more information\n", "unrecognized option '--bogus=x'"),
    ],
)
def test_slurms_own_words_are_kept_without_the_commands_name(err, words):
    assert slurm_text.said(err) == words
    assert not slurm_text.is_unsure(err)


@pytest.mark.parametrize(
    "err",
    [
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
        "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
        "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
        "",
    ],
)
def test_an_answer_that_may_have_been_lost_is_no_refusal(err):
    assert slurm_text.is_unsure(err)


def test_a_limit_on_the_number_of_jobs_is_seen():
    err = "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
    assert slurm_text.is_full(err)
    assert not slurm_text.is_full("sbatch: error: Batch job submission failed: Invalid qos specification")


@pytest.mark.parametrize(("out", "number"), [("12\n", "12"), ("12;lab\n", "12"), ("Welcome to the cluster\n12\n", "12"), ("", ""), ("oops\n", "")])
def test_the_number_of_a_new_job_is_read(out, number):
    assert slurm_text.read_sbatch(out) == number


def test_time_limits_of_partitions_are_read():
    found = slurm_text.read_time_limits("debug*|1-00:00:00\nlong|infinite\nshort|30:00\n")
    assert found == {"debug": 86400, "": 86400, "long": None, "short": 1800}
