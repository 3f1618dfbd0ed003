# Made by `dev.py generate` from proto/afsproxy/v1/afsproxy.proto; do not edit.
"""Messages of proto/afsproxy/v1/afsproxy.proto."""

from . import define

define(globals(), "afsproxy/v1/afsproxy.proto")
