"""Disks: the state's tables (LMDB, or memory), the journal of the log, snapshots and backups.

Nothing here knows what the records mean; `models` says what they look like, `keys` where they
lie. The clock and the source of chance are here too, because everybody is given them.
"""
