"""What the job of a notebook's kernel asks for: kernelspec metadata, variables, and mistakes in either."""

import json

import pytest

from kale_magic.errors import FormatError, UsageError
from kale_magic.formats import native
from kale_magic.formats.notebook import to_notebook
from kale_magic.kernels.job import kernel_name_of
from kale_magic.kernels.request import kernel_workflow, of_environment
from kale_magic.model.codec import workflow_from_dict, workflow_to_dict


@pytest.fixture
def install(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")  # else the one that is installed with Kale comes first

    def write(resources, name="kale-local"):
        folder = tmp_path / "kernels" / name
        folder.mkdir(parents=True)
        metadata = {"kale": {"does": "x", "executor": "local", "resources": resources}}
        (folder / "kernel.json").write_text(json.dumps({"argv": ["python"], "display_name": "x", "language": "python", "metadata": metadata}))

    return write


def step_of(kernel="kale-local", environ=None):
    return workflow_from_dict(kernel_workflow("local", kernel, environ or {})).steps["kernel"]


def test_without_anything_it_is_one_python_kernel_that_ends_after_an_idle_hour(install):
    install({})
    step = step_of()
    assert (step.kind, step.code, step.idle_s, step.resources.cpus) == ("python", "", 3600, None)


def test_metadata_and_environment_are_joined_and_the_environment_wins(install):
    install({"cpus": 2, "memory": "4GB", "walltime": "01:00:00", "idle": "00:10:00", "queue": "long"})
    environ = {"KALE_KERNEL_CPUS": "3", "KALE_KERNEL_GPUS": "0", "KALE_KERNEL_IDLE": "30m", "KALE_KERNEL_ACCOUNT": "a", "KALE_KERNEL_WALLTIME": " "}
    step = step_of(environ=environ)
    asked = step.resources
    assert (asked.cpus, asked.gpus, asked.memory_bytes, asked.walltime_s, asked.queue, asked.account) == (3, 0, 4 << 30, 3600, "long", "a")
    assert step.idle_s == 1800


def test_kernelspec_is_the_one_that_the_connection_file_names(install, tmp_path):
    install({"cpus": 2}, "kale-local-big")
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"kernel_name": "kale-local-big"}))
    assert step_of(kernel_name_of(file)).resources.cpus == 2
    assert kernel_name_of(tmp_path / "nowhere") == ""


def test_notebook_is_named_in_the_description(install):
    assert step_of(environ={"JPY_SESSION_NAME": "/home/me/eos.ipynb"}).description == "The kernel of eos.ipynb."


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ({"cpus": "two"}, r"kernelspec kale-local asks for what can't be read: cpus: takes a whole number, not 'two'"),
        ({"memory": "4 apples"}, r"memory: --memory '4 apples' is not"),
        ({"idle": "soon"}, "idle: "),
        ({"cores": 2}, "'cores' is not known here"),
        (["cpus"], "holds names with values"),
    ],
)
def test_mistakes_in_the_metadata_are_named(install, resources, words):
    install(resources)
    with pytest.raises(UsageError, match=words):
        step_of()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("CPUS", "two", "KALE_KERNEL_CPUS='two' is not a whole number"),
        ("CPUS", "0", "KALE_KERNEL_CPUS='0' is not a whole number above 0"),
        ("GPUS", "-1", "KALE_KERNEL_GPUS='-1'"),
        ("MEMORY", "much", "KALE_KERNEL_MEMORY='much' is not an amount of memory such as 4GB"),
        ("WALLTIME", "soon", "KALE_KERNEL_WALLTIME='soon' is not a time such as 01:00:00"),
        ("CORES", "2", "KALE_KERNEL_CORES is not known. There are: KALE_KERNEL_ACCOUNT"),
    ],
)
def test_mistakes_in_variables_are_named(name, value, words):
    with pytest.raises(UsageError) as caught:
        of_environment({"KALE_KERNEL_" + name: value})
    assert words in str(caught.value)


def test_workflow_goes_through_codec_and_yaml_but_no_cell_declares_it(install):
    install({"cpus": 2})
    workflow = workflow_from_dict(kernel_workflow("local", "", {}))
    assert workflow_from_dict(workflow_to_dict(workflow)) == workflow
    text = native.dump(workflow)
    assert '    idle: "01:00:00"\n' in text
    assert native.load(text) == workflow
    with pytest.raises(FormatError, match="kernel of a notebook"):
        to_notebook(workflow)


def test_only_a_python_kernel_stays_open():
    data = kernel_workflow("local", "none", {})
    data["steps"]["kernel"] |= {"kind": "shell"}
    with pytest.raises(FormatError, match="only the kernel of a Python step"):
        workflow_from_dict(data)
