"""Tests of the benchmark's own arithmetic and of the images it builds."""
