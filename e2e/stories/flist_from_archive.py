"""A Flist made from an archive of a web server becomes Ready and is mounted on every node; bad ones say what is wrong."""

import base64
import gzip
import hashlib
import json

from e2e import made
from e2e.story import BUSYBOX, Story, pod

FILES = {"data/blob": made.noise("archive", 200_000), "data/empty": b"", "words": b"a word\n"}
PORT = 8080


def run(it: Story) -> None:
    plain = made.tar(FILES)
    packed = gzip.compress(plain, 6, mtime=0)
    server(it, {"tree.tar.gz": packed, "tree.tar": plain, "broken.tar.gz": packed[:-1000], "text.tar": b"no archive\n" * 100})
    sha256 = hashlib.sha256(packed).hexdigest()
    it.apply(flist(it, "packed", "tree.tar.gz", sha256=sha256), flist(it, "plain", "tree.tar"))
    it.ready("flist", "packed", "plain")
    good(it)
    bad(it, sha256)
    digests = [it.get("flist", name)["status"]["digest"] for name in ("packed", "plain")]
    it.kubectl("delete", "pod", "-l", "story=reader", "--wait=true", seconds=120)
    it.kubectl("delete", "flist", "--all", "--wait=true", "--timeout=100s", seconds=110)
    for node in it.cluster.nodes():
        left = it.on_node(node, f"ls {' '.join(f'/var/lib/lamina/images/{digest}.*' for digest in digests)} 2>/dev/null; true")
        it.check(not left, f"{node} keeps {left}")
    it.unmounted()


def server(it: Story, files: made.Files) -> None:
    """A web server with these files, as a service."""
    labels = {"app": "archives"}
    container = {"name": "httpd", "image": BUSYBOX, "command": ["httpd", "-f", "-p", str(PORT), "-h", "/www"],
                 "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
                 "volumeMounts": [{"name": "www", "mountPath": "/www"}]}
    content = {name: base64.b64encode(data).decode() for name, data in files.items()}
    # `create`: what `apply` would note about it is longer than an annotation may be.
    it.kubectl("create", "-f", "-", text=json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "archives"},
                                                     "binaryData": content}))
    it.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "archives", "labels": labels},
              "spec": {"terminationGracePeriodSeconds": 1, "containers": [container],
                       "volumes": [{"name": "www", "configMap": {"name": "archives"}}]}},
             {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "archives"},
              "spec": {"selector": labels, "ports": [{"port": PORT}]}})
    it.running("archives")


def flist(it: Story, name: str, file: str, place: str = "", **more: str) -> dict:
    """A Flist from a file of the server, or from one of another place."""
    place = place or f"archives.{it.namespace}.svc.cluster.local:{PORT}"
    return {"apiVersion": "lamina.dev/v1alpha1", "kind": "Flist", "metadata": {"name": name},
            "spec": {"source": {"archive": {"url": f"http://{place}/{file}", **more}}}}


def good(it: Story) -> None:
    for name in ("packed", "plain"):
        status = it.get("flist", name)["status"]
        sizes = (status["entries"], status["bytes"])
        # Of which one is the directory that nothing in the archive names.
        it.check(len(status["digest"]) == 64 and sizes == (4, sum(map(len, FILES.values()))), f"the status of {name} is {status}")
    it.say(f"{status['entries']} entries, {status['size']}")
    expected = hashlib.sha256(FILES["data/blob"]).hexdigest()
    names = [f"{name}-{node}" for name in ("packed", "plain") for node in it.cluster.nodes()]
    readers = [pod(name, {"lamina.dev/flist": name.partition("-")[0]}, "sha256sum /data/data/blob | cut -c1-64; cat /data/words",
                   node=name.partition("-")[2]) for name in names]
    for reader in readers:
        reader["metadata"]["labels"] = {"story": "reader"}
    it.apply(*readers)
    for name in names:
        it.check(it.finished(name).split("\n")[:2] == [expected, "a word"], f"{name} read something else")


def bad(it: Story, sha256: str) -> None:
    """Not there, not what was promised, not whole, no archive, no server."""
    address = it.get("pod", "archives")["status"]["podIP"]
    it.apply(flist(it, "missing", "no-such.tar"), flist(it, "other", "tree.tar", sha256=sha256), flist(it, "broken", "broken.tar.gz"),
             flist(it, "text", "text.tar"), flist(it, "nobody", "tree.tar", f"{address}:1"))
    for name, reasons in (("missing", ["NotFound"]), ("other", ["DamagedData"]), ("broken", ["DamagedData", "InvalidSource"]),
                          ("text", ["InvalidSource"]), ("nobody", ["Unavailable"])):
        it.wait(f"flist {name} says {reasons}", lambda name=name, reasons=reasons: it.condition("flist", name)["reason"] in reasons)
        said = it.condition("flist", name)
        it.check(said["status"] == "False" and len(said["message"]) > 20, f"{name}: {said}")
        it.say(f"{name}: {said['reason']}: {said['message']}")
