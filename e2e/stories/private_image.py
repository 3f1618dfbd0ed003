"""An image behind a password: mounted with the secret of a pod, class or volume, refused without it, also when the node has it already."""

import base64
import contextlib
import json
import pathlib

from bench.corpus import images as corpus
from bench.corpus import registry as corpus_registry
from bench.corpus.layers import Recipe
from e2e import release
from e2e.cluster import ClusterError, archive, tools
from e2e.stories import storage_class
from e2e.story import Story, pod

NAMESPACE = "e2e-private"
IMAGE = "lamina.test/private-registry:1"
USER, PASSWORD = "reader", "secret-word"
# bcrypt of PASSWORD, as htpasswd -B writes it.
HTPASSWD = f"{USER}:$2b$05$abcdefghijklmnopqrstuuUOabO4v2PoT/v47Y.znQK.9MsMDnesq\n"
CONFIG = """\
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: /storage}}
http: {addr: ":5000"}
auth: {htpasswd: {realm: e2e, path: /htpasswd}}
"""


def run(it: Story) -> None:
    it.cluster.load_image(registry_archive())
    reference = f"{release.PRIVATE}/demo/base:1"
    with registry(it):
        it.apply(secret("right", PASSWORD), secret("wrong", "other"))
        it.apply(pod("anonymous", {"lamina.dev/image": reference}, script="true"))
        it.wait("a pod without a secret is refused", lambda: refused(it, "anonymous"), 120)
        node = it.cluster.nodes()[0]
        it.apply(pod("with-secret", {"lamina.dev/image": reference}, script="cat /data/etc/debian_version", secret="right", node=node))
        it.finished("with-secret")
        for name, more in (("wrong", {"secret": "wrong"}), ("none", {})):
            it.apply(pod(name, {"lamina.dev/image": reference}, script="true", node=node, **more))
        for name in ("wrong", "none"):
            it.wait(f"{name} is refused although the node has the image", lambda name=name: refused(it, name), 120)
            it.check(it.phase(name) == "Pending", f"{name} was mounted")
        claims(it, reference)
        it.kubectl("delete", "pod", "--all", "--wait=true", seconds=120)


def claims(it: Story, reference: str) -> None:
    """Claims whose class, or whose PersistentVolume, names the secret; each with the right one and with a wrong one."""
    image, own = {storage_class.IMAGE: reference}, it.namespace
    parameters = {**image, "csi.storage.k8s.io/node-publish-secret-name": "${pvc.name}",
                  "csi.storage.k8s.io/node-publish-secret-namespace": "${pvc.namespace}"}
    try:
        # The claims are called as the secrets.
        it.apply(storage_class.storage_class(own, parameters), *(storage_class.claim(name, own) for name in ("right", "wrong")),
                 *(item for name in ("right", "wrong")
                   for item in storage_class.by_hand(f"{own}-{name}", own, image, claimed=f"by-hand-{name}", secret=name)))
        storage_class.read(it, "right")
        storage_class.read(it, "by-hand-right")
        for name in ("wrong", "by-hand-wrong"):
            it.apply(pod(f"claim-{name}", claim=name, script="true"))
            it.wait(f"the claim {name} is refused", lambda name=name: refused(it, f"claim-{name}"), 120)
            it.check(it.phase(f"claim-{name}") == "Pending", f"the claim {name} was mounted")
    finally:
        it.kubectl("delete", "pod", "--all", "--wait=true", seconds=120)
        it.kubectl("delete", "pvc", "--all", "--wait=true")
        it.kubectl("delete", "pv", f"{own}-right", f"{own}-wrong", "--ignore-not-found", "--wait=true")
        it.kubectl("delete", "storageclass", own, "--ignore-not-found")


def refused(it: Story, name: str) -> bool:
    return any(word in text for text in it.events("Pod", name) for word in ("PermissionDenied", "Unauthenticated", "denied"))


def secret(name: str, password: str) -> dict:
    token = base64.b64encode(f"{USER}:{password}".encode()).decode()
    config = json.dumps({"auths": {release.PRIVATE: {"auth": token}}})
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": config}}


@contextlib.contextmanager
def registry(it: Story):
    """A registry that wants a password, as a service of the cluster, while the block runs."""
    labels = {"app": "registry"}
    named = {"name": "registry", "namespace": NAMESPACE}
    container = {"name": "registry", "image": IMAGE, "command": ["/registry", "serve", "/config.yml"],
                 "env": [{"name": "REGISTRY_STORAGE_DELETE_ENABLED", "value": "true"}],
                 "readinessProbe": {"tcpSocket": {"port": 5000}, "periodSeconds": 1}}
    objects = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": named,
         "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}}}},
        {"apiVersion": "v1", "kind": "Service", "metadata": named, "spec": {"selector": labels, "ports": [{"port": 5000}]}},
    ]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    try:
        it.cluster.kubectl("apply", "-f", "-", text=text)
        it.cluster.kubectl("-n", NAMESPACE, "rollout", "status", "deployment/registry", "--timeout=120s", seconds=130)
        yield
    finally:
        with contextlib.suppress(ClusterError):
            it.cluster.kubectl("delete", "namespace", NAMESPACE, "--timeout=120s", seconds=130)


def registry_archive() -> pathlib.Path:
    """An image of the registry with an image in its storage, so that nothing is pushed to it later."""
    base = corpus.find("base")
    image = corpus.Image("private-registry", [Recipe(fill, (str(tools.registry()), base.recipes[-1].key("")))])
    layers = corpus.build(image)
    manifest, config = corpus.describe(image, layers)
    out = release.ARCHIVE.with_name("private-registry.tar")
    archive.write(out, IMAGE, manifest, [config, *(layer.blob for layer in layers)])
    return out


def fill(root: pathlib.Path, program: str, _key: str) -> None:
    """The registry, its configuration, and storage that holds the image `base`."""
    with corpus_registry.serve(storage=root / "storage") as address:
        corpus_registry.push(address, corpus.find("base"))
    (root / "registry").write_bytes(pathlib.Path(program).read_bytes())
    (root / "registry").chmod(0o755)
    (root / "config.yml").write_text(CONFIG)
    (root / "htpasswd").write_text(HTPASSWD)
