"""Measurements: what a cluster of three members on this machine does, and how fast."""
