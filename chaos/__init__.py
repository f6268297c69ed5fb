"""Harming real clusters for longer than a test may take, and judging what is left."""
