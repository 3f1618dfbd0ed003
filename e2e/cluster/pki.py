"""Certificates of a cluster: two authorities, a leaf for each user and server, made with openssl."""

import dataclasses
import os
import pathlib
import subprocess

from . import plan
from .plan import Plan
from .provider import ClusterError

CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
DAYS = "3650"


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A certificate that says who its holder is."""

    name: str
    subject: str
    names: str = ""  # subjectAltName
    authority: str = "ca"


def leaves(cluster: Plan) -> list[Leaf]:
    """Every certificate the cluster needs."""
    service = "kubernetes.default.svc"
    api = [f"DNS:{name}" for name in ("kubernetes", "kubernetes.default", service, f"{service}.cluster.local", "localhost")]
    api += [f"IP:{address}" for address in ("127.0.0.1", plan.GATEWAY, plan.SERVICE_API)]
    return [
        Leaf("apiserver", "/CN=kube-apiserver", ",".join(api)),
        Leaf("apiserver-kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client"),
        Leaf("front-proxy-client", "/CN=front-proxy-client", authority="front-proxy-ca"),
        Leaf("admin", "/O=system:masters/CN=kubernetes-admin"),
        Leaf("controller-manager", "/CN=system:kube-controller-manager"),
        Leaf("scheduler", "/CN=system:kube-scheduler"),
        Leaf("proxy", "/CN=system:kube-proxy"),
        Leaf("policies", f"/CN={plan.POLICIES}"),
        *(Leaf(node.name, f"/O=system:nodes/CN=system:node:{node.name}", f"DNS:{node.name},IP:{node.address}")
          for node in cluster.nodes),
    ]


def make(cluster: Plan) -> None:
    """Makes all keys and certificates in the plan's folder."""
    cluster.keys.mkdir(mode=0o700, exist_ok=True)
    for authority in ("ca", "front-proxy-ca"):
        _openssl(cluster.keys, "req", "-x509", *CURVE, "-keyout", f"{authority}.key", "-out", f"{authority}.crt", "-days", DAYS,
                 "-subj", f"/CN={authority}", "-addext", "basicConstraints=critical,CA:TRUE",
                 "-addext", "keyUsage=critical,digitalSignature,keyCertSign,cRLSign")
    _openssl(cluster.keys, "genrsa", "-out", "accounts.key", "2048")
    _openssl(cluster.keys, "rsa", "-in", "accounts.key", "-pubout", "-out", "accounts.pub")
    for leaf in leaves(cluster):
        _make_leaf(cluster.keys, leaf)


def _make_leaf(where: pathlib.Path, leaf: Leaf) -> None:
    extensions = where / f"{leaf.name}.ext"
    lines = ["basicConstraints=CA:FALSE", "keyUsage=digitalSignature", "extendedKeyUsage=clientAuth,serverAuth"]
    if leaf.names:
        lines.append(f"subjectAltName={leaf.names}")
    extensions.write_text("\n".join(lines) + "\n")
    _openssl(where, "req", "-new", *CURVE, "-keyout", f"{leaf.name}.key", "-out", f"{leaf.name}.csr", "-subj", leaf.subject)
    _openssl(where, "x509", "-req", "-in", f"{leaf.name}.csr", "-CA", f"{leaf.authority}.crt", "-CAkey", f"{leaf.authority}.key",
             "-CAcreateserial", "-days", DAYS, "-extfile", extensions.name, "-out", f"{leaf.name}.crt")
    for scratch in (extensions, where / f"{leaf.name}.csr"):
        scratch.unlink()


def _openssl(where: pathlib.Path, *words: str) -> None:
    done = subprocess.run(["openssl", *words], cwd=where, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          preexec_fn=lambda: os.umask(0o077))
    if done.returncode:
        raise ClusterError(f"openssl {words[0]} failed in {where}: {done.stderr.strip()}")
