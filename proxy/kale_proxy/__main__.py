"""``python -m kale_proxy``: ``serve --dir FOLDER`` is the warm supervisor, ``run JOB.json`` runs one batch job.

``refuse JOB.json --line LINE --log FILE`` is for the job's script: the line failed, so the step has.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m kale_proxy", allow_abbrev=False, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="fork kernels for steps, until idle")
    serve.add_argument("--dir", required=True, type=Path, help="folder of the socket (0700, on this host)")
    serve.add_argument("--idle", type=float, default=60.0, help="seconds without work after which it ends")
    run = commands.add_parser("run", help="run one job in the foreground, as its job.sh does")
    run.add_argument("job", type=Path, help="job.json")
    refuse = commands.add_parser("refuse", help="record that a job's environment could not be made")
    refuse.add_argument("job", type=Path, help="job.json")
    refuse.add_argument("--line", required=True, help="of the script, that failed")
    refuse.add_argument("--log", required=True, type=Path, help="what it said")
    options = parser.parse_args(argv)
    if options.command == "serve":
        from kale_proxy.serve import serve as serve_steps

        serve_steps(options.dir.resolve(), options.idle)
        return 0
    from kale_proxy import batch

    if options.command == "refuse":
        return batch.refuse(options.job, options.line, options.log)
    return batch.run(options.job)


if __name__ == "__main__":
    sys.exit(main())
