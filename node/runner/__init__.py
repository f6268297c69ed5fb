"""The small process beside a node that launches commands, watches them and ends them.

Nothing is imported here: the runner must start quickly and stay small, so its modules import
the standard library, msgspec and the clock. The node imports `node.runner_client`, which
needs `limits`, `protocol` and `parent` of this package; the rest runs in the runner alone.
"""
