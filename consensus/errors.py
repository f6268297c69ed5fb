"""What a caller of the consensus layer can act on; the API maps these to HTTP answers."""

from __future__ import annotations


class ConsensusError(Exception):
    """A command was not carried out, or it is not known whether it was."""


class NoQuorum(ConsensusError):
    """No majority can be reached. The command was certainly not applied."""


class Overloaded(ConsensusError):
    """Too many commands wait already. The command was certainly not applied."""


class OutcomeUnknown(ConsensusError):
    """The command was sent, and no answer came in time: it may be applied, now or later."""


class CommandTooLarge(ConsensusError):
    """The command does not fit into a log entry. It was not applied."""


class ChangeRefused(ConsensusError):
    """The leader does not change the members this way, or not now; the text says why."""
