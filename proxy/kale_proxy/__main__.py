"""``python -m kale_proxy``: ``serve --dir FOLDER`` is the warm supervisor, ``run JOB.json`` runs one batch job.

``refuse JOB.json --line LINE --log FILE`` is for the job's script: the line failed, so the step has. ``pilot --dir BASE``
keeps an allocation open, as a pool's job script does.
"""

from __future__ import annotations

import sys


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    words = sys.argv[1:] if argv is None else argv
    if len(words) == 2 and words[0] == "run" and not words[1].startswith("-"):  # a job's script, for which argparse is half as much work again
        from kale_proxy import brief

        code = brief.run(words[1])
        if code is not None:
            return code
        from pathlib import Path

        from kale_proxy import batch

        return batch.run(Path(words[1]))
    return _command(words)


def _command(words: list[str]) -> int:
    import argparse
    from pathlib import Path

    parser = argparse.ArgumentParser(prog="python -m kale_proxy", allow_abbrev=False, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="fork kernels for steps, until idle")
    serve.add_argument("--dir", required=True, type=Path, help="folder of the socket (0700, on this host)")
    serve.add_argument("--idle", type=float, default=60.0, help="seconds without work after which it ends")
    serve.add_argument("--in-pool", action="store_true", help="SIGTERM ends it with its steps, as when an allocation is over")
    pilot = commands.add_parser("pilot", help="keep an allocation open, and start supervisors in it")
    pilot.add_argument("--dir", required=True, type=Path, help="base of its folder, on this host")
    pilot.add_argument("--walltime", type=float, help="seconds after which it ends by itself")
    run = commands.add_parser("run", help="run one job in the foreground, as its job.sh does")
    run.add_argument("job", type=Path, help="job.json")
    run.add_argument("--ranks", action="store_true", help="a launcher started one of us per task: run the cell in each")
    refuse = commands.add_parser("refuse", help="record that a job's environment could not be made")
    refuse.add_argument("job", type=Path, help="job.json")
    refuse.add_argument("--line", required=True, help="of the script, that failed")
    refuse.add_argument("--log", required=True, type=Path, help="what it said")
    options = parser.parse_args(words)
    if options.command == "serve":
        from kale_proxy.serve import serve as serve_steps

        serve_steps(options.dir.resolve(), options.idle, is_in_pool=options.in_pool)
        return 0
    if options.command == "pilot":
        from kale_proxy.pilot import run as run_pilot

        return run_pilot(options.dir, options.walltime)
    from kale_proxy import batch

    if options.command == "refuse":
        return batch.refuse(options.job, options.line, options.log)
    return batch.run(options.job, is_ranked=options.ranks)


if __name__ == "__main__":
    sys.exit(main())
