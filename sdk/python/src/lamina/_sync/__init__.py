# Made by `dev.py generate` from _async/__init__.py; do not edit.
"""The client, written once: `_sync` is made from this by `dev.py generate`."""
