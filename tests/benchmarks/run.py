"""Measure Kale against its targets, with its peers beside it: `make bench`.

Everything runs in a private KALE_HOME and is ended afterwards. `--only steps attach` measures a part;
without `--peers FOLDER` (the `bin` folder of an environment that has papermill and Snakemake) they are left out.
"""

from __future__ import annotations

import argparse
import compileall
import os
import shutil
import sys
import tempfile
from pathlib import Path

import cuts as tunnel_cuts
import dashboard
import formats
import own
import peers as others
import pools
import slurm as batch
import steer
import sweeps
from measure import machine_line, print_table

import kale_magic
import kale_proxy
import proxy

PARTS = {
    "steps": own.steps,
    "chain": own.chain,
    "attach": own.attach,
    "imports": own.imports,
    "manager": own.manager,
    "cache": steer.cache,
    "inside": steer.inside,
    "reuse": sweeps.reuse,
    "relay": proxy.relay,
    "spec": proxy.spec,
    "tunnel": proxy.tunnel,
    "cuts": tunnel_cuts.cuts,
    "dashboard": dashboard.dashboard,
    "slurm": batch.slurm,
    "pools": pools.pools,
    "formats": formats.formats,
}


def main():
    """Print all tables; returns 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--only", nargs="+", choices=[*PARTS, "peers"], default=[*PARTS, "peers"], help="measure these")
    parser.add_argument("--peers", type=Path, help="bin folder of an environment with papermill and Snakemake")
    options = parser.parse_args()
    peers = options.peers and options.peers.absolute()
    print(machine_line(), flush=True)
    figures = []
    home = Path(tempfile.mkdtemp(prefix="kale-b-", dir="/tmp"))
    os.environ["KALE_HOME"] = str(home)
    sys.path += [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]
    from conftest import end_all

    from kale_proxy.places import socket_dir

    _compile()
    before = Path.cwd()
    try:
        (home / "work").mkdir()
        os.chdir(home / "work")
        for part, function in PARTS.items():
            if part in options.only:
                found = function(peers) if function is batch.slurm else function()
                print_table(function.__doc__.strip(), found)
                figures += found
        if "peers" in options.only and peers:
            found = [*others.papermill(peers), *others.snakemake(peers), *others.sshpyk(peers)]
            print_table("Peers, measured just now on this machine.", found)
            _compare(figures, found)
    finally:
        os.chdir(before)
        end_all(home, socket_dir())
        shutil.rmtree(socket_dir(), ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)
    missed = [figure for figure in figures if not figure.is_met]
    targets = sum(figure.target is not None for figure in figures)
    print(f"\n{targets - len(missed)} of {targets} targets met" + "".join(f"; missed: {figure.what}" for figure in missed))
    return 1 if missed else 0


def _compile():
    """Have the packages compiled, as pip leaves them for a user; an editable install does not."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for folder in (Path(kale_magic.__file__).parent, Path(kale_proxy.__file__).parent):
        compileall.compile_dir(folder, quiet=1)


def _compare(figures, found):
    ours = next((figure for figure in figures if figure.what.startswith("200 independent")), None)
    for peer in [peer for peer in found if peer.unit == ours.unit] if ours else ():
        print(f"  Kale's 200 steps against {peer.what}: {ours.value / peer.value:.1f} times the rate")


if __name__ == "__main__":
    sys.exit(main())
