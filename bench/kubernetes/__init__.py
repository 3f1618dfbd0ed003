"""Group B: what pods on a real cluster see. See `__main__.py`."""
