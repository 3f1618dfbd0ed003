"""B1: a pod's first useful work, its image as a Lamina volume, as a volume pulled by kubelet, and as a local folder."""

import hashlib
import json
import shlex
import statistics

from e2e.story import BUSYBOX

from ..cold import touched_bytes
from ..corpus import images
from ..method import Row, cost_row, interleave
from .cluster import DRIVER, NODE, Bench, Link, settle, timed_pod

MBIT = 200
OVER_A5_SECONDS = 0.5
# As bench/work.py, on TCP: a pod has its own loopback.
NGINX = """\
daemon off; pid /tmp/pid; error_log stderr; user root;
events {}
http {
  access_log off; client_body_temp_path /tmp/a; proxy_temp_path /tmp/b; fastcgi_temp_path /tmp/c; uwsgi_temp_path /tmp/d; scgi_temp_path /tmp/e;
  server { listen 127.0.0.1:8080; location / { proxy_pass http://127.0.0.1:8081; } }
}
"""
SERVER = "require('http').createServer((request, answer) => answer.end('hello')).listen(8081, '127.0.0.1')"
WEB = f"""\
printf %s {shlex.quote(NGINX)} > /data/tmp/nginx.conf
chroot /data /usr/bin/node -e {shlex.quote(SERVER)} > /dev/null 2>&1 &
chroot /data /usr/sbin/nginx -c /tmp/nginx.conf > /dev/null 2>&1 &
until printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc 127.0.0.1 8080 2> /dev/null | grep -q hello; do usleep 5000; done"""


def run(bench: Bench) -> None:
    """All images, each by turns."""
    bench.note("the link is 200 Mbit/s without added delay: pods' traffic cannot be led through the relay that bench/link.py adds it with")
    for name in ["python-data", "web"] + ([] if bench.quick else ["ml"]):
        first_work(bench, images.find(name), max(1, bench.rounds // 3) if name == "ml" else bench.rounds)


def first_work(bench: Bench, image: images.Image, rounds: int) -> None:
    """One image."""
    reference, touched = bench.convert(image), touched_bytes(image)
    script, moved, begun, fetched = work(image), {}, {}, []

    def note_fetched() -> None:
        volumes = json.loads(bench.on(bench.empty, DRIVER, "volumes", NODE))
        fetched.append({"fetched": sum(volumes["fetched"]), "transferred": sum(volumes["transferred"])})

    def measured(name: str, volume: dict, prepare, then=lambda: None) -> float:
        prepare()
        settle()
        before = link.bytes_in()
        starts, done = timed_pod(bench, pod(bench, "work", volume, script), then)
        moved.setdefault(name, []).append(link.bytes_in() - before)
        begun.setdefault(name, []).append(starts)
        return done

    lamina = {"csi": {"driver": "csi.lamina.dev", "readOnly": True, "volumeAttributes": {"lamina.dev/image": reference}}}
    pulled = {"image": {"reference": reference, "pullPolicy": "IfNotPresent"}}
    folder = {"hostPath": {"path": str(images.native_tree(image)), "type": "Directory"}}
    with Link(bench.cluster, bench.empty, MBIT) as link:
        samples = interleave({
            "lamina": lambda: measured("lamina", lamina, bench.empty_node, note_fetched),
            "image volume": lambda: measured("image volume", pulled, lambda: forget_pulled(bench, image)),
            "local": lambda: measured("local", folder, bench.drop_caches),
        }, rounds)
    forget_pulled(bench, image)
    rows(bench, image, touched, samples, moved, begun, fetched)


def rows(bench: Bench, image: images.Image, touched: int, samples, moved: dict, begun: dict, fetched: list[dict]) -> None:
    """Lines of the table for one image."""
    what = f"{image.name} first work in a pod, {MBIT} Mbit/s"
    middle = {name: statistics.median(values) for name, values in moved.items()}
    for name in samples.by_variant:
        low, high = samples.spread(name)
        note = (f"container started after {statistics.median(begun[name]):.2f} s; {middle[name] / 1e6:.1f} MB to the node; "
                f"{low:.2f}-{high:.2f} s in {len(samples.by_variant[name])} rounds")
        bench.add(cost_row("B1", f"{what}: {name}", samples.median(name), "s", None, note, {name: samples.by_variant[name], "bytes": moved[name]}))
    value, low, high = samples.ratio("image volume", "lamina")
    bench.add(Row("B1", f"{what}: sooner than the image volume", value, "x", "", None, low, high))
    bench.add(Row("B1", f"{what}: of the bytes the image volume moves", middle["lamina"] / middle["image volume"], "x", "", None))
    # As A5: what was touched, as well packed as what was fetched, over the link, plus the same pod with all of it local.
    brought = statistics.median(one["fetched"] for one in fetched)
    density = statistics.median(one["transferred"] for one in fetched) / max(brought, 1)
    limit = touched * density * 8 / (MBIT * 1e6) + samples.median("local")
    over = (samples.median("lamina") - OVER_A5_SECONDS) / limit
    bench.add(cost_row("B1", f"{what}: lamina less {OVER_A5_SECONDS} s over the limit", over, "x", 1.25,
                       f"limit {limit:.2f} s: {touched / 1e6:.1f} MB touched at {density:.2f} compressed, plus the local pod"))
    bench.add(cost_row("B1", f"{what}: bytes fetched over distinct bytes touched", brought / touched, "x", 1.3,
                       f"{brought / 1e6:.1f} MB of {touched / 1e6:.1f} MB", {"fetched": fetched}))


def work(image: images.Image) -> str:
    """The image's first work as a script, until its first answer."""
    return WEB if image.name == "web" else f"chroot /data {shlex.join(image.command)} > /dev/null 2> /dev/termination-log"


def pod(bench: Bench, name: str, volume: dict, script: str) -> dict:
    """A pod on the measured node that shows a volume at /data and times a script."""
    clock = "cut -d' ' -f1 /proc/uptime"
    mounts = [{"name": "data", "mountPath": "/data", "readOnly": True}, {"name": "dev", "mountPath": "/data/dev"},
              {"name": "tmp", "mountPath": "/data/tmp"}]
    container = {"name": "main", "image": BUSYBOX, "command": ["sh", "-ec", f"{clock}\n{script}\n{clock}\nsleep 100000"], "volumeMounts": mounts}
    volumes = [{"name": "data", **volume}, {"name": "dev", "hostPath": {"path": "/dev"}}, {"name": "tmp", "emptyDir": {}}]
    spec = {"nodeName": bench.empty, "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container], "volumes": volumes}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def forget_pulled(bench: Bench, image: images.Image) -> None:
    """Removes an image from the node's containerd with its content."""
    manifest, config = images.describe(image, images.build(image))
    names = bench.on(bench.empty, "ctr", "-n", "k8s.io", "images", "ls", "-q").split()
    ours = [name for name in names if f"/{image.ref}" in name or hashlib.sha256(manifest).hexdigest() in name
            or hashlib.sha256(config).hexdigest() in name]
    if ours:
        bench.on(bench.empty, "ctr", "-n", "k8s.io", "images", "rm", "--sync", *ours)
    bench.drop_caches()

