"""Group C: what nodes do for each other. See `__main__.py`."""
