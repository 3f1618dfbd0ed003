"""B5: a thousand Flists applied at once: until the operator is done with all, and what that asks of the API server."""

import json
import re

import yaml

from e2e.cluster.provider import wait

from ..corpus import images
from ..method import cost_row
from .cluster import Bench, uptime

FLISTS = 1000
READY_SECONDS = 600
REQUESTS = re.compile(r"^apiserver_request_total\{(.*)\} (\S+)$", re.MULTILINE)


def run(bench: Bench) -> None:
    """All of one image, which is converted before."""
    reference = bench.convert(images.find("base"))
    objects = [{"apiVersion": "lamina.dev/v1alpha1", "kind": "Flist", "metadata": {"name": f"many-{number}"},
                "spec": {"source": {"image": {"reference": reference}}}} for number in range(FLISTS)]
    before, started = calls(bench), uptime()
    bench.kubectl("create", "-f", "-", text=yaml.safe_dump_all(objects), seconds=300)
    created = uptime() - started
    wait("all Flists are Ready", READY_SECONDS, lambda: ready(bench) == FLISTS, pause=1)
    seconds, after = uptime() - started, calls(bench)
    made = {name: count - before.get(name, 0) for name, count in after.items() if count > before.get(name, 0)}
    # One call of each object is kubectl's, which makes it.
    each = (sum(made.values()) - FLISTS) / FLISTS
    started = uptime()
    # kubectl's own wait asks for one object after the other, five a second.
    bench.kubectl("delete", "flists", "--all", "--wait=false", seconds=300)
    wait("all Flists are gone", READY_SECONDS, lambda: not json.loads(bench.kubectl("get", "flists", "-o", "json"))["items"], pause=1)
    gone = uptime() - started
    most = ", ".join(f"{name} {count}" for name, count in sorted(made.items(), key=lambda item: -item[1])[:6])
    bench.add(cost_row("B5", f"{FLISTS} Flists at once until all are Ready", seconds, "s", 60,
                       f"kubectl had made them after {created:.1f} s; deleted again in {gone:.1f} s"))
    bench.add(cost_row("B5", f"{FLISTS} Flists at once: calls of the API server per object", each, "calls", 8, most, made))


def ready(bench: Bench) -> int:
    """How many are Ready."""
    listed = json.loads(bench.kubectl("get", "flists", "-o", "json"))["items"]
    return sum(any(one["type"] == "Ready" and one["status"] == "True" for one in item.get("status", {}).get("conditions", []))
               for item in listed)


def calls(bench: Bench) -> dict[str, int]:
    """Requests so far for Flists and events, by verb and resource; without watches and this benchmark's own lists."""
    counted: dict[str, int] = {}
    for labels, value in REQUESTS.findall(bench.cluster.kubectl("get", "--raw", "/metrics", seconds=60)):
        of = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if of.get("resource") not in ("flists", "events") or of["verb"] in ("WATCH", "LIST"):
            continue
        name = f"{of['verb']} {of['resource']}{'/' + of['subresource'] if of.get('subresource') else ''}"
        counted[name] = counted.get(name, 0) + int(float(value))
    return counted
