#!/usr/bin/env python3
"""The demo on Kubernetes: a cluster, the chart, a Flist and a pod that mounts it, and what happened.

Needs root, as the cluster does. Leaves the cluster running, so that you can look around; `make cluster-down`
removes it.
"""

import pathlib
import shlex
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from bench.corpus import images as corpus  # noqa: E402
from bench.corpus import registry  # noqa: E402
from e2e import release  # noqa: E402
from e2e.cluster import ClusterError, provider  # noqa: E402
from e2e.cluster.provider import wait  # noqa: E402

OBJECTS = """\
apiVersion: lamina.dev/v1alpha1
kind: Flist
metadata: {{name: python-data}}
spec:
  source:
    image: {{reference: "{image}"}}
---
apiVersion: v1
kind: Pod
metadata: {{name: demo}}
spec:
  restartPolicy: Never
  containers:
    - name: main
      image: lamina.test/busybox:1
      command: [chroot, /data, {command}]
      volumeMounts: [{{name: data, mountPath: /data}}]
  volumes:
    - name: data
      csi:
        driver: csi.lamina.dev
        volumeAttributes: {{lamina.dev/flist: python-data}}
"""


def main() -> int:
    """Runs the demo; 0 when the pod printed its line."""
    cluster = provider()
    say("make cluster")
    cluster.up()
    inside, outside = cluster.registry()
    image = corpus.find("python-data")
    say("an image with Python and pandas, pushed to the cluster's registry")
    registry.push(outside, image)
    say("helm install lamina charts/lamina -n lamina-system --create-namespace --wait")
    started = time.monotonic()
    release.install(cluster)
    print(f"   {time.monotonic() - started:.1f} s")
    objects = OBJECTS.format(image=f"{inside}/{image.ref}", command=", ".join(f"'{word}'" for word in quoted(image.command)))
    say("kubectl apply -f -")
    print("   " + objects.replace("\n", "\n   "))
    cluster.kubectl("delete", "pod/demo", "flist/python-data", "--ignore-not-found", "--wait=true", seconds=120)
    cluster.kubectl("apply", "-f", "-", text=objects)
    started = time.monotonic()
    wait("the pod ends", 600, lambda: cluster.kubectl("get", "pod", "demo", "-o", "jsonpath={.status.phase}") in ("Succeeded", "Failed"))
    say(f"kubectl logs demo   ({time.monotonic() - started:.1f} s after apply, conversion of the image included)")
    print("   " + cluster.kubectl("logs", "demo").strip())
    explain(cluster)
    return 0 if cluster.kubectl("get", "pod", "demo", "-o", "jsonpath={.status.phase}") == "Succeeded" else 1


def quoted(command: tuple) -> list[str]:
    """Words for a flow sequence in single quotes."""
    return [word.replace("'", "''") for word in command]


def explain(cluster) -> None:
    """What Lamina did, in the objects' own words."""
    say("kubectl get flist python-data; events of the pod")
    print(cluster.kubectl("get", "flist", "python-data"))
    template = "{range .items[*]}{.reason}: {.message}{\"\\n\"}{end}"
    print(cluster.kubectl("get", "events", "--field-selector=involvedObject.name=demo", "-o", f"jsonpath={template}"))
    print("The operator had a node convert the image once, as a stream. The pod's volume was mounted by name: names and "
          "attributes come from the flist, the kernel fetches only the bytes that the import touches.\n"
          f"Look around: export KUBECONFIG={shlex.quote(str(cluster.kubeconfig()))}; remove everything: make cluster-down")


def say(text: str) -> None:
    """A step, so that it stands out."""
    print(f"-- {text}", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ClusterError as error:
        sys.exit(f"demo: {error}")
