"""Agreement: what goes into the log, in which order, and what it does to the state.

    driver, proposer, read_index     what a member uses: write, follow, read for certain
      raft/                          elections, the log, who belongs to the cluster
      snapshots/                     the state for a member that is too far behind
      network/                       connections between members
      state/                         the state machine that applies what was agreed

`errors`, `features`, `frames` and `configuration` are the words they share.
"""
