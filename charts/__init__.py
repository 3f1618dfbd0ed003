"""The Helm chart, and its tests beside it."""
