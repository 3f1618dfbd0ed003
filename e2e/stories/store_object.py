"""A Store says whether nodes can use it, and why not; an Image is published to it and leaves it again."""

import json

from e2e import made
from e2e.cluster import ClusterError
from e2e.story import SYSTEM, Story, pod


def run(it: Story) -> None:
    inside, repository = it.cluster.registry()[0], f"e2e/{it.namespace}/packs"
    host = inside.partition(":")[0]
    good, secret = f"oci://{inside}/{repository}?insecure=true", f"{it.namespace}-keys"
    stores = {"good": good, "away": f"oci://{host}:1/packs?insecure=true", "odd": f"oci://{inside}/packs?insecur=true",
              "no-secret": good, "no-keys": good, "typo": f"http://{inside}/no/such/folder", "local": "dir:///var/lib/lamina/store"}
    names = {key: f"{it.namespace}-{key}" for key in stores}
    try:
        it.kubectl("-n", SYSTEM, "create", "secret", "generic", secret, "--from-literal=token=word")
        for key, url in stores.items():
            reference = {"no-secret": {"secretRef": {"name": "nobody"}}, "no-keys": {"secretRef": {"name": secret}}}.get(key, {})
            it.apply({"apiVersion": "lamina.dev/v1alpha1", "kind": "Store", "metadata": {"name": names[key]},
                      "spec": {"url": url, **reference}})
        checked(it, names)
        published(it, names["good"], repository)
        # What was wrong is put right.
        it.kubectl("patch", "store", names["away"], "--type=merge", "-p", json.dumps({"spec": {"url": good}}))
        it.wait("the store is looked at again", lambda: it.condition("store", names["away"])["status"] == "True", 120)
    finally:
        for words in (("image", "--all"), ("store", *names.values()), ("-n", SYSTEM, "secret", secret)):
            try:
                it.kubectl("delete", *words, "--ignore-not-found", "--wait=true", "--timeout=100s", seconds=110)
            except ClusterError as error:
                it.say(f"deleting {words}: {error}")
    it.unmounted()


def checked(it: Story, names: dict[str, str]) -> None:
    it.ready("store", names["good"], names["local"])
    for key in ("good", "local"):
        status = it.get("store", names[key])["status"]
        it.check(status["node"] in it.cluster.nodes() and status["objects"] >= 0 and status["checkedAt"] != "", f"{key}: {status}")
    # A web server that answers, and says that there is nothing.
    it.wait("nobody knows whether the web folder is a store", lambda: it.condition("store", names["typo"]).get("reason") == "NothingSeen", 60)
    it.check(it.condition("store", names["typo"])["status"] == "Unknown", "a folder that is not there is a store")
    for key, reason, word in (("away", "Unavailable", "oci://"), ("odd", "InvalidSource", "insecur"),
                              ("no-secret", "NoSuchSecret", f"no Secret nobody in {SYSTEM}"), ("no-keys", "BadSecret", "username")):
        it.say(f"{key}: {it.unready('store', names[key], reason, word)}")
        it.check(it.condition("store", names[key], "Reachable")["status"] == "False", f"{key} is reachable")


def published(it: Story, store: str, repository: str) -> None:
    """One node converts, the store has it, every node reads it from there; with the Image it goes."""
    reference = made.push(it.cluster, f"e2e/{it.namespace}/image:1", {"words": b"a word\n", "blob": made.noise(it.namespace, 300_000)})
    it.apply({"apiVersion": "lamina.dev/v1alpha1", "kind": "Image", "metadata": {"name": "shared"},
              "spec": {"reference": reference, "stores": [store]}},
             {"apiVersion": "lamina.dev/v1alpha1", "kind": "Flist", "metadata": {"name": "unstored"},
              "spec": {"source": {"image": {"reference": reference}}, "stores": ["nowhere"]}})
    it.ready("image", "shared")
    it.say(f"a Store that is not there: {it.unready('flist', 'unstored', 'NoSuchStore', 'nowhere')}")
    kinds = sorted({tag.partition("-")[0] for tag in made.tags(it.cluster, repository)})
    it.check(kinds == ["flist", "image", "index", "pack"], f"the store holds {kinds}")
    status = it.get("image", "shared")["status"]
    it.apply({"apiVersion": "lamina.dev/v1alpha1", "kind": "Flist", "metadata": {"name": "stored"},
              "spec": {"source": {"flist": {"digest": status["flist"]}}, "stores": [store]}})
    it.ready("flist", "stored")
    names = [f"reader-{node}" for node in it.cluster.nodes()]
    it.apply(*(pod(name, {"lamina.dev/flist": "stored"}, "cat /data/words", node=node) for name, node in zip(names, it.cluster.nodes())))
    for name in names:
        it.check(it.finished(name).strip() == "a word", f"{name} read something else")
    it.kubectl("delete", "pod", *names, "--wait=true", seconds=120)
    it.kubectl("delete", "flist", "--all", "--wait=true", "--timeout=100s", seconds=110)
    it.check(made.tags(it.cluster, repository) != [], "what an Image is was deleted with a Flist")
    it.kubectl("delete", "image", "shared", "--wait=true", "--timeout=100s", seconds=110)
    it.wait("the store is empty", lambda: not made.tags(it.cluster, repository), 60)
