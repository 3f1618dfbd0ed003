# Made by `dev.py generate` from proto/afslet/v1/afslet.proto; do not edit.
"""Messages of proto/afslet/v1/afslet.proto."""

from . import define

define(globals(), "afslet/v1/afslet.proto")
