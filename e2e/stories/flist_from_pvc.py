"""A Flist made from a claim's directory becomes Ready and is mounted on every node; bad ones say what is wrong."""

from e2e import made
from e2e.cluster import ClusterError
from e2e.story import Story, pod

MODEL_BYTES = 3 << 20
# A tree of six names beside a directory that is not asked for.
DATA = r"""
rm -rf FOLDER && mkdir -p FOLDER/models/empty FOLDER/other && cd FOLDER/models
head -c BYTES /dev/urandom > weights
echo 'a word' > words && ln -s words link && ln words again
echo secret > mine && chown 1000:1000 mine && chmod 600 mine
echo unwanted > ../other/file
sha256sum weights | cut -c1-64
"""
READ = "sha256sum /data/weights | cut -c1-64; cat /data/link; stat -c '%u %a' /data/mine; ls -a /data | wc -l"


def run(it: Story) -> None:
    node = it.cluster.nodes()[0]
    folder, repository = f"/tmp/{it.namespace}", f"e2e/{it.namespace}"
    told = it.on_node(node, DATA.replace("FOLDER", folder).replace("BYTES", str(MODEL_BYTES)), 60).strip()
    try:
        it.apply(*volume(it.namespace, node, folder), store(it, repository))
        good(it, node, repository, told)
        bad(it)
        it.check(it.on_node(node, f"ls {folder}").split() == ["models", "other"], "something was made in the claim")
    finally:
        for kind, name in (("flist", "--all"), ("pod", "--all"), ("pvc", "--all"), ("store", it.namespace), ("pv", it.namespace)):
            drop(it, kind, name)
        it.on_node(node, f"rm -rf {folder}")
    it.wait("nothing is left in the store", lambda: not made.tags(it.cluster, repository), 60)
    it.unmounted()


def volume(name: str, node: str, folder: str) -> list[dict]:
    """A claim bound to a directory of a node, as a local disk is."""
    here = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}
    size = {"storage": "1Gi"}
    return [
        {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
         "spec": {"capacity": size, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "",
                  "local": {"path": folder}, "nodeAffinity": {"required": {"nodeSelectorTerms": [here]}}}},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
         "spec": {"storageClassName": "", "volumeName": name, "accessModes": ["ReadWriteOnce"], "resources": {"requests": size}}},
    ]


def store(it: Story, repository: str) -> dict:
    """A store that every node reaches: the cluster's registry."""
    return {"apiVersion": "lamina.dev/v1alpha1", "kind": "Store", "metadata": {"name": it.namespace},
            "spec": {"url": f"oci://{it.cluster.registry()[0]}/{repository}?insecure=true"}}


def flist(name: str, claim: str, path: str, stores: list[str]) -> dict:
    return {"apiVersion": "lamina.dev/v1alpha1", "kind": "Flist", "metadata": {"name": name},
            "spec": {"source": {"pvc": {"claimName": claim, "path": path}}, "stores": stores}}


def good(it: Story, node: str, repository: str, told: str) -> None:
    it.apply(flist("data", "data", "models", [it.namespace]))
    it.ready("flist", "data", seconds=240)
    status = it.get("flist", "data")["status"]
    expected = MODEL_BYTES + len("a word\n") + len("secret\n")
    it.check(len(status["digest"]) == 64 and status["entries"] == 6, f"the status is {status}")
    # A file of two names is one file.
    it.check(expected <= status["bytes"] <= expected + len("a word\n"), f"the status is {status}")
    it.check(status["bytesStored"] >= MODEL_BYTES and repository in status["stores"][0], f"the status is {status}")
    it.wait("the pod that packed is gone", lambda: not it.get("pods", "-l", "app.kubernetes.io/component=pack")["items"], 60)
    names = [f"reader-{at}" for at in it.cluster.nodes()]
    it.apply(*(pod(name, {"lamina.dev/flist": "data"}, READ, node=at) for name, at in zip(names, it.cluster.nodes())))
    for name in names:
        said = it.finished(name).split("\n")
        it.check(said[:4] == [told, "a word", "1000 600", "8"], f"{name} read {said}")
    it.say(f"{status['entries']} entries, {status['size']}; made on {node}, read on every node")
    it.kubectl("delete", "pod", *names, "--wait=true", seconds=120)


def bad(it: Story) -> None:
    """No such claim, no such directory, no store."""
    it.apply(flist("no-claim", "nobody", "", [it.namespace]), flist("no-path", "data", "modles", [it.namespace]),
             flist("no-store", "data", "models", []), flist("unknown-store", "data", "models", ["nowhere"]))
    for name, reason, word in (("no-claim", "NoSuchClaim", "there is no PersistentVolumeClaim nobody"),
                               ("no-store", "NoStore", "needs a Store"), ("unknown-store", "NoSuchStore", "no Store named nowhere"),
                               ("no-path", "PackFailed", "modles")):
        it.say(f"{name}: {it.unready('flist', name, reason, word)}")
    it.wait("an event says it, too", lambda: any("NoSuchClaim" in text for text in it.events("Flist", "no-claim")), 60)
    it.check(not it.get("flist", "no-path")["status"].get("digest"), "a directory that is not there has a digest")


def drop(it: Story, kind: str, name: str) -> None:
    """Deletes, and waits until it is gone; what is not there is fine."""
    try:
        it.kubectl("delete", kind, name, "--ignore-not-found", "--wait=true", "--timeout=100s", seconds=110)
    except ClusterError as error:
        it.say(f"deleting {kind} {name}: {error}")
