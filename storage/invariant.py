"""Broken invariants, the second of the two kinds of errors.

An error that a caller can act on is a named exception (see `storage.errors`). What is
left are facts that the program has proven to be impossible; when one of them fails, the
member can no longer be trusted with the cluster's state, and the only safe step is to
stop the process and keep the evidence. `assert` does not serve, for `python -O` drops it.
"""

from __future__ import annotations


class InvariantViolated(BaseException):
    """A broken invariant: the process stops with exit status `EXIT_STATUS`.

    It derives from BaseException so that no `except Exception` on the way up can swallow
    it and let a damaged member go on.
    """

    EXIT_STATUS = 70


def invariant(condition: object, message: str, **facts: object) -> None:
    """Stop the process unless `condition` holds.

    `message` says what was expected, as a sentence; `facts` are the numbers behind it.

    Raises:
        InvariantViolated: `condition` is false.
    """
    if not condition:
        shown = ", ".join(f"{name}={value!r}" for name, value in facts.items())
        raise InvariantViolated(f"{message} ({shown})" if shown else message)
