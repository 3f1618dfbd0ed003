# Made by `dev.py generate` from proto/lamina/v1/node.proto; do not edit.
"""Messages of proto/lamina/v1/node.proto."""

from . import define

define(globals(), "lamina/v1/node.proto")
