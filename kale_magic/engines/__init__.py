"""Other workflow software as the engine of a run: ``python -m kale_magic.engines RUN_FOLDER snakemake|cwltool``.

Owns the export of the run and the engine's command line; :mod:`kale_magic.executors.engine` starts it, and takes what
``hook.py`` tells from within each step back into the run. Nothing else of Kale imports this.
"""
