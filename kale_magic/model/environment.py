"""Which variables of the process that submits reach a step: all but what belongs to that process alone.

A notebook often runs inside a job of its own (batchspawner, OnDemand, an interactive allocation). Handed on,
``SLURM_JOB_ID`` makes an ``srun`` in the step join the notebook's allocation, ``PMI_RANK`` makes an MPI
program believe it is a rank of it, ``JUPYTERHUB_API_TOKEN`` gives the step the person's hub, and
``MPLBACKEND`` names a backend that only the notebook has. Pure; used by the client before a submit.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_PREFIXES = (
    # the batch system's: the notebook's own job
    "SLURM_", "SLURMD_", "SBATCH_", "SRUN_", "SALLOC_", "PBS_", "LSB_", "LSF_", "LS_JOBPID", "LS_SUBCWD",
    "FLUX_", "SGE_", "COBALT_", "OAR_",
    # MPI's: the launcher that started the notebook
    "OMPI_", "PMI_", "PMIX_", "PMI2_", "MPI_LOCAL", "MPI_REMSH", "HYDRA_", "HYDI_", "MV2_COMM_WORLD_", "PALS_", "PRTE_",
    # Jupyter's and the front end's
    "JUPYTERHUB_", "JPY_", "KERNEL_", "VSCODE_", "PYDEVD_", "IPYTHON", "IPYKERNEL_", "COLAB_", "PAPERMILL_",
)  # fmt: skip
_NAMES = frozenset({
    "PMI", "PMIX", "PMI2", "JOB_ID", "JOB_NAME", "ENVIRONMENT_BATCH", "NSLOTS", "NHOSTS", "PE_HOSTFILE", "ARC",
    "JUPYTER_TOKEN", "JUPYTER_SERVER_URL", "JUPYTER_SERVER_ROOT", "CONFIGPROXY_AUTH_TOKEN", "MPLBACKEND",
    "MEM_PER_CPU", "VIRTUAL_ENV_PROMPT",
    # the terminal's
    "_", "SHLVL", "OLDPWD", "PWD", "LS_COLORS", "COLUMNS", "LINES", "TERM", "TERM_PROGRAM", "TERM_PROGRAM_VERSION",
    "COLORTERM", "TERMCAP", "WINDOWID", "STY", "TMUX", "TMUX_PANE", "PS1", "PROMPT_COMMAND",
    "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "PAGER", "GIT_PAGER", "GIT_EDITOR",
    # pytest's: a test's own
    "PYTEST_CURRENT_TEST",
})  # fmt: skip
# what a batch system gives to the job that submits: its devices, its own temporary folder
_DEVICES = frozenset({"CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK"})
_FOLDERS = frozenset({"TMPDIR", "TMP", "TEMP", "TEMPDIR", "XDG_RUNTIME_DIR"})
# where the programs of a batch system find it: not for steps, whose jobs have their own, but the manager can't do without
OF_BATCH_SYSTEMS = frozenset({
    "SLURM_CONF", "PBS_CONF_FILE", "PBS_EXEC", "PBS_DEFAULT", "PBS_SERVER", "LSF_ENVDIR", "LSF_SERVERDIR", "LSF_LIBDIR", "LSF_BINDIR",
    "FLUX_URI", "FLUX_HANDLE_RETRY",
})  # fmt: skip
_JOBS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")
_TOKEN = re.compile(r"JUPYTER.*(?:TOKEN|PASSWORD|SECRET|COOKIE)")


def clean_environment(environ: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the variables a step keeps, and the names of those it does not, sorted.

    Names that are no shell words (exported bash functions aside, which ``module`` needs) and values with
    a NUL can't be handed on to a program and are dropped too.

    Parameters
    ----------
    environ : mapping of str to str
        The environment of the process that submits.
    """
    job = next((environ[name] for name in _JOBS if environ.get(name)), "")
    kept = {name: value for name, value in environ.items() if _is_kept(name) and "\0" not in value and not (job and _is_jobs(name, value, job))}
    if "SLURM_CONF" in environ and "SLURM_JOB_ID" not in environ:  # the person's; within a job it may be the node's own
        kept["SLURM_CONF"] = environ["SLURM_CONF"]
    return kept, tuple(sorted(environ.keys() - kept.keys()))


def _is_jobs(name: str, value: str, job: str) -> bool:
    """Whether a variable has what is of the submitting job alone."""
    return name in _DEVICES or (name in _FOLDERS and re.search(rf"(?<!\d){re.escape(job)}(?!\d)", value) is not None)


def _is_kept(name: str) -> bool:
    if name in {"KALE_HOME", "IPYTHONDIR"}:
        return True
    if name.startswith("KALE_") or name in _NAMES or name.startswith(_PREFIXES):
        return False
    return bool(name) and not _TOKEN.match(name)
