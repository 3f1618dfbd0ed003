"""docs/benchmarks-cluster.md."""

from ..corpus.paths import REPOSITORY
from ..sections import Page

PAGE = Page(
    prefix="cluster",
    path=REPOSITORY / "docs/benchmarks-cluster.md",
    head=[
        "# Benchmarks of the cluster's cache", "",
        "Written by `make bench-cluster`; do not edit. Nodes are processes of one machine, so absolute times are context.", "",
        "Again: `make bench-cluster`, or `python3 -m bench.cluster --only discovery`.",
    ],
    titles={"fanout": "C1. Many nodes read all of one image at once", "peer": "C2. A cold start from another node", "discovery": "C4. Discovery under load"},
    how={
        "fanout": "Nodes are network namespaces on a switch, each behind a shaped cable, with a `lamina node`, caches and mounts of its own; one"
                  " discovery. All of them mount the image and read every byte at the same moment, with nothing of it on any node.",
        "peer": "From nothing on a node to the end of the image's command: the mount of the image and the command in it. One time its data comes from"
                " the only other node, which pulled the image and serves its layers; the other time from the packs that a node wrote to the registry"
                " (`--store oci://…`), without a cluster. Cables are the same, and the node begins with an empty disk each time.",
        "discovery": "One replica of `lamina discovery`, asked over loopback by 16 connections without TLS. Heartbeats are counted by CPU time of"
                     " the replica, since the callers work on the same cores; questions are one caller's, one after the other.",
    },
    versions={},
)
