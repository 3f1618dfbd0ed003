"""Nodes share what one of them converted by a store behind a password, which the chart's values name; nobody is shown it."""

import contextlib

from e2e import made, release
from e2e.cluster import ClusterError
from e2e.stories import private_image
from e2e.story import SYSTEM, Story, pod

STORE = "e2e-shared"
BYTES = 300_000


def run(it: Story) -> None:
    it.cluster.load_image(private_image.registry_archive())
    with private_image.registry(it):
        # By address: the mount daemons are processes of the node, which knows no names of services.
        service = it.get("-n", private_image.NAMESPACE, "service", "registry")
        url = f"oci://{service['spec']['clusterIP']}:5000/packs?insecure=true"
        try:
            it.kubectl("-n", SYSTEM, "create", "secret", "generic", STORE, f"--from-literal=username={private_image.USER}",
                       f"--from-literal=password={private_image.PASSWORD}")
            release.install(it.cluster, more=("--set", f"stores[0].name={STORE},stores[0].url={url},stores[0].secretName={STORE}"))
            it.ready("store", STORE)
            shared(it, url)
            hidden(it)
            # While the store can be cleaned.
            it.kubectl("delete", "flist", "--all", "--wait=true", "--timeout=100s", seconds=110)
            incomplete = [text for text in it.events("Flist", "shared") if text.startswith("CleanupIncomplete")]
            it.check(not incomplete, f"{incomplete}")
        finally:
            release.install(it.cluster)
            for words in (("store", STORE), ("-n", SYSTEM, "secret", STORE)):
                with contextlib.suppress(ClusterError):
                    it.kubectl("delete", *words, "--wait=true")
    it.unmounted()


def shared(it: Story, url: str) -> None:
    """One node converts; pods of every node read the Flist, and the image itself, from the store."""
    files = {"words": b"a word\n", "blob": made.noise(it.namespace, BYTES)}
    reference = made.push(it.cluster, f"e2e/{it.namespace}:1", files)
    it.apply({"apiVersion": "lamina.dev/v1alpha1", "kind": "Flist", "metadata": {"name": "shared"},
              "spec": {"source": {"image": {"reference": reference}}}})
    it.ready("flist", "shared")
    status = it.get("flist", "shared")["status"]
    it.check(status["stores"] == [url], f"the stores are {status['stores']}")
    sources = {"flist": {"lamina.dev/flist": "shared"}, "image": {"lamina.dev/image": reference}}
    readers = {f"{kind}-{node}": pod(f"{kind}-{node}", attributes, "cat /data/words && wc -c < /data/blob", node=node)
               for kind, attributes in sources.items() for node in it.cluster.nodes()}
    it.apply(*readers.values())
    for name in readers:
        it.check(it.finished(name).split() == ["a", "word", str(BYTES)], f"{name} read something else")
    it.kubectl("delete", "pod", *readers, "--wait=true", seconds=120)


def hidden(it: Story) -> None:
    """The password stands in no object but Secrets."""
    kinds = "daemonsets,deployments,pods,configmaps,events,stores,flists,laminaclusters"
    for namespace in (SYSTEM, it.namespace):
        said = it.kubectl("-n", namespace, "get", kinds, "-o", "yaml")
        it.check(private_image.PASSWORD not in said, f"the password is shown in {namespace}")
    logs = it.kubectl("-n", SYSTEM, "logs", "-l", "app.kubernetes.io/name=lamina", "--all-containers", "--tail=-1", seconds=120)
    it.check(private_image.PASSWORD not in logs, "the password is in a log")
