"""What every campaign of the command line can be told."""

from __future__ import annotations

import argparse
import random


def read_options(module: str) -> argparse.Namespace:
    """Return `nodes`, `seconds`, `every` and `seed`, and print what repeats the run."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--every", type=float, default=4, help="about how often, in seconds")
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.randrange(1 << 32)
    print(f"{options.nodes} nodes, {options.seconds:.0f} s, seed {options.seed}", flush=True)
    return options
