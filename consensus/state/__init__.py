"""The replicated state machine: commands, what applying each of them does, and nothing impure.

Every member applies the same entries in the same order, so nothing here reads a clock, draws
a random number or touches a file: what differs between members comes in with the entry.
"""
