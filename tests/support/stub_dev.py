"""`cronclave dev` with stand-ins for its nodes, and such a stand-in.

    python -m tests.support.stub_dev dev DIRECTORY PORT     a cluster of three
    python -m tests.support.stub_dev node FILE NAME         one node of it

A node named in STUB_BROKEN says so and ends before it is ready; one named in STUB_STUBBORN
does not end when it is asked to.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from node.cli.dev_cluster import DevCluster
from node.cli.dev_layout import prepare
from node.cli.exits import CommandFailed
from node.cli.output import say
from node.config import load_config
from storage.clock import SystemEnvironment


def serve(file: Path, name: str) -> None:
    """Answer /readyz until this process is ended."""
    if name in os.environ.get("STUB_BROKEN", ""):
        sys.exit(f"{name} is broken on purpose.")
    if name in os.environ.get("STUB_STUBBORN", ""):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/readyz" else 404)
            self.end_headers()

    port = load_config(file, {}, {"node.name": name}).http.port
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


def arguments(file: Path, name: str) -> Sequence[str]:
    return (sys.executable, "-m", "tests.support.stub_dev", "node", str(file), name)


def main() -> int:
    what, where, last = sys.argv[1:]
    if what == "node":
        serve(Path(where), last)
        return 0
    environment = SystemEnvironment()
    try:
        layout = prepare(Path(where), None, int(last), environment)
        return DevCluster(layout, environment, arguments).run(samples=False)
    except CommandFailed as failure:
        say(str(failure))
        return failure.exit_status


if __name__ == "__main__":
    sys.exit(main())
