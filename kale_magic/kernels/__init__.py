"""Kernelspecs for steps: any Jupyter front end opens a notebook or console in the kernel of a running step.

``specs`` keeps the folders that Jupyter reads, ``seek`` asks the manager where a step is, and
``python -m kale_magic.kernels attach STEP -f FILE`` is what a kernelspec runs: a :mod:`kale_proxy.relay`.
"""
