"""The command `cronclave`.

A client command has to feel instant, and most of its time would be imports. So this package
imports nothing when it is loaded, the table in `node.cli.program` names commands without
loading them, and a client command loads click, http.client and its own module alone.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line of this process and exit with the status it came to."""
    import sys  # noqa: PLC0415

    from node.cli.program import run  # noqa: PLC0415

    sys.exit(run(sys.argv[1:]))
