"""The client, written once: `_sync` is made from this by `dev.py generate`."""
