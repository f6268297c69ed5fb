"""The HTTP API: the same on every member, declared once in `routes`.

`jobs/` turns documents into commands, `schedule/` knows when a job occurs. What the API needs
of its member is the protocol `cluster.Cluster`; it knows no other part of it.
"""
