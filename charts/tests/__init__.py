"""Tests of the chart as helm renders it, and of the container image it runs."""
