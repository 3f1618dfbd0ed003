"""A real Kubernetes of two nodes for the end-to-end tests, brought up and taken down by command.

    python3 -m e2e.cluster up          (make cluster)
    python3 -m e2e.cluster down        (make cluster-down)

Tests use `provider()` and kubectl, and do not know which provider runs below:

    local  upstream programs, built from Go modules, in namespaces of this machine (`local.py`)
    kind   Kubernetes in Docker, where Docker is present (`kind.py`)
"""

from .provider import Provider, ClusterError


def provider(name: str | None = None) -> Provider:
    """The provider called `name`; without a name what PROVIDER says, or `local`."""
    import os

    from . import kind, local

    chosen = name or os.environ.get("PROVIDER") or "local"
    if chosen == "local":
        return local.Local()
    if chosen == "kind":
        return kind.Kind()
    raise ClusterError(f"no provider {chosen!r}: there are local and kind")
