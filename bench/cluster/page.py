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
    titles={"fanout": "C1. Many nodes read all of one image at once", "start": "C2, C5. A first start through another node",
            "transfer": "C3. A layer from a node", "discovery": "C4. Discovery under load", "holes": "C6. Other nodes that are black holes"},
    how={
        "fanout": "Nodes are network namespaces on a switch, each behind a shaped cable, with a `lamina node`, caches and mounts of its own; one"
                  " discovery. All of them mount the image and read every byte at the same moment, with nothing of it on any node.",
        "start": "From nothing on a node to the end of the image's first work (`import pandas`): the mount of the image and the command in it. Its data"
                 " comes from the only other node, which pulled the image and serves its layers; or from the packs that a node wrote to the registry"
                 " (`--store oci://…`), without a cluster; or it is downloaded and unpacked before (`curl | tar`). Cables are the same. `with what it"
                 " learnt`: another node had started the image before and told what that read; otherwise nobody had.",
        "holes": "An empty node reads random places of an image that other nodes have; half of them then answer nothing any more. Compared with an"
                 " empty node outside of a cluster that reads the registry's packs over the same cable.",
        "transfer": "One node without TLS; the layer is in its page cache. The reader and the plain TCP connection are on the same machine.",
        "discovery": "One replica of `lamina discovery`, asked over loopback by 16 connections without TLS. Heartbeats are counted by CPU time of"
                     " the replica, since the callers work on the same cores; questions are one caller's, one after the other.",
    },
    versions={},
)
