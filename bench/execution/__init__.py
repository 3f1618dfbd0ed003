"""Benchmarks of running commands (group D)."""
