"""Benchmarks of Lamina against native file systems and its peers, and the images they use."""
