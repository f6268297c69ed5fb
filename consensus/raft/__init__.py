"""The Raft layer: pysyncobj as the engine, with its holes closed one by one.

`engine` is the only module that imports the library; `rules`, `behind` and `members` say what
it may do; `log` and `seams` stand in for its journal, `transport` for its network. The driver
(`consensus.driver`) turns it.
"""
