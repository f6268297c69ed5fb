"""The state of a leader on its way to a member that the log does not reach any more."""
