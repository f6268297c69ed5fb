"""`python -m node.cli`, which is how `cronclave dev` starts its nodes."""

from node.cli import main

main()
