"""Which variables reach a step."""

from kale_magic.model.environment import clean_environment


def kept(**environ):
    return set(clean_environment(environ)[0])


def test_leftovers_of_the_notebooks_own_job_are_dropped():
    environ = {
        "SLURM_JOB_ID": "1", "SLURM_CPU_BIND": "x", "SBATCH_ACCOUNT": "a", "SRUN_DEBUG": "1", "PBS_JOBID": "2", "LSB_JOBID": "3",
        "FLUX_URI": "u", "OMPI_COMM_WORLD_RANK": "0", "PMI_RANK": "0", "PMIX_RANK": "0", "PMI": "x",
        "JUPYTERHUB_API_TOKEN": "s", "JUPYTER_TOKEN": "s", "JPY_PARENT_PID": "1", "JPY_SESSION_NAME": "x.ipynb", "MPLBACKEND": "inline",
        "KERNEL_ID": "k", "VSCODE_PID": "1", "PYDEVD_USE_FRAME_EVAL": "NO", "IPYTHON_KERNEL": "1", "_": "/bin/python", "SHLVL": "2",
        "OLDPWD": "/", "LS_COLORS": "x", "COLUMNS": "80", "LINES": "24", "FORCE_COLOR": "1", "CLICOLOR": "1", "CLICOLOR_FORCE": "1",
        "TERM": "xterm-color", "GIT_PAGER": "cat", "PAGER": "cat", "KALE_RUN": "r", "KALE_STEP": "s", "KALE_JOB": "u",
    }  # fmt: skip
    found, stripped = clean_environment(environ)
    assert found == {}
    assert stripped == tuple(sorted(environ))


def test_what_a_program_needs_is_kept():
    environ = {
        "PATH": "/bin", "HOME": "/home/u", "LANG": "C.UTF-8", "DISPLAY": ":0", "LD_LIBRARY_PATH": "/lib", "CONDA_PREFIX": "/c",
        "VIRTUAL_ENV": "/v", "PYTHONPATH": "/p", "OMP_NUM_THREADS": "4", "CUDA_VISIBLE_DEVICES": "0", "MODULEPATH": "/m", "LOADEDMODULES": "gcc",
        "JUPYTER_DATA_DIR": "/j", "JUPYTER_PATH": "/k", "IPYTHONDIR": "/i", "KALE_HOME": "/kale", "BASH_FUNC_module%%": "() { :; }", "SSH_AUTH_SOCK": "/s",
    }  # fmt: skip
    assert clean_environment(environ) == (environ, ())


def test_secrets_of_the_hub_are_dropped_whatever_their_name():
    assert kept(JUPYTER_SERVER_TOKEN="x", JUPYTERLAB_PASSWORD="y", JUPYTER_COOKIE_SECRET="z", MY_TOKEN="m") == {"MY_TOKEN"}


def test_what_cannot_be_handed_to_a_program_is_dropped():
    assert clean_environment({"A": "x\0y", "": "z", "B": ""}) == ({"B": ""}, ("", "A"))


def test_devices_and_temporary_folder_of_the_submitting_job_are_dropped():
    job = {"SLURM_JOB_ID": "42"}
    assert kept(CUDA_VISIBLE_DEVICES="0", ROCR_VISIBLE_DEVICES="1", TMPDIR="/scratch/job.42/x", XDG_RUNTIME_DIR="/run/user/42", **job) == set()
    assert kept(TMPDIR="/scratch/me", TMP="/tmp/142", CUDA_HOME="/opt/cuda", **job) == {"TMPDIR", "TMP", "CUDA_HOME"}
    assert kept(CUDA_VISIBLE_DEVICES="0", TMPDIR="/scratch/job.42") == {"CUDA_VISIBLE_DEVICES", "TMPDIR"}
