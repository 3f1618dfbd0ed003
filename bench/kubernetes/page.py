"""docs/benchmarks-kubernetes.md."""

from e2e.cluster.tools import VERSIONS

from ..corpus.paths import REPOSITORY
from ..sections import Page

PAGE = Page(
    prefix="kubernetes",
    path=REPOSITORY / "docs/benchmarks-kubernetes.md",
    head=[
        "# Benchmarks on Kubernetes", "",
        "Written by `make bench-k8s`; do not edit. Measured on the test cluster (`docs/cluster.md`): two nodes and the control plane share one",
        "machine, so absolute times are context, and pods start slower than on machines of their own. Variants run by turns in random order;",
        "in brackets the bootstrap 95 % interval of the ratio of medians. Every sample is in the file named under each table.", "",
        "Again: `make bench-k8s`, or on a cluster that is up `python3 -m bench.kubernetes --only cold --rounds 3`.",
    ],
    titles={
        "cold": "B1. A pod's first useful work with nothing local",
        "publish": "B2. Publishing a converted image",
        "pods": "B3. A hundred pods on one node",
        "install": "B4. From helm install to the first read",
        "operator": "B5. A thousand Flists at once",
    },
    how={
        "cold": "One pod on an empty node, by turns with the image as a Lamina volume (converted before, in a store in the same registry; the"
                " node left and empty), as an image volume that kubelet pulls (KEP-4639; removed from containerd before), and as a folder of"
                " the node with the page cache dropped. Time from `kubectl create` until the work is done.",
        "publish": "`NodePublishVolume` on the driver's socket, as kubelet calls it.",
        "pods": "Publish times are the node server's own; memory is the proportional set size.",
        "install": "Container images are on the nodes; the volume's image is converted.",
        "operator": "All of one converted image. Calls are what the API server counted for Flists and events.",
    },
    versions={name: VERSIONS[name] for name in ("kubernetes", "containerd")},
)
