"""The control plane: first process of its own network and PID namespaces.

    python3 -m e2e.cluster.control API_FD REGISTRY_FD

The descriptors are sockets that listen on the host, see `relay.py`.
"""

import ssl
import subprocess
import sys
import threading
import time
import urllib.request

from . import config, plan, tools
from .plan import Plan
from .supervise import Supervisor, ask

READY_SECONDS = 180


def main() -> None:
    """Runs the control plane until the end."""
    api, listener = map(int, sys.argv[1:])
    cluster = plan.here()
    for line in network_commands():
        subprocess.run(["ip", *line.split()], check=True)
    (cluster.state / "registry.yaml").write_text(config.registry(cluster))
    supervisor = Supervisor(cluster.control, cluster.logs)
    relay = [sys.executable, "-m", "e2e.cluster.relay", f"{api}={plan.GATEWAY}:{plan.API_PORT}", f"{listener}={plan.REGISTRY}"]
    supervisor.add("etcd", config.etcd(cluster)).start()
    supervisor.add("registry", [str(tools.registry()), "serve", f"{cluster.state}/registry.yaml"]).start()
    supervisor.add("apiserver", config.apiserver(cluster)).start()
    supervisor.add("relay", relay, (api, listener)).start()
    supervisor.add("controller-manager", config.controller_manager(cluster))
    supervisor.add("scheduler", config.scheduler(cluster))
    threading.Thread(target=start_rest, args=[cluster], daemon=True).start()
    supervisor.run()


def start_rest(cluster: Plan) -> None:
    """Starts what gives up when it finds no apiserver."""
    await_api(cluster)
    for name in ("controller-manager", "scheduler"):
        ask(cluster.control, "start", name)


def network_commands() -> list[str]:
    """The bridge that every node is plugged into."""
    return ["link set lo up", "link add nodes type bridge", f"addr add {plan.GATEWAY}/24 dev nodes", "link set nodes up"]


def await_api(cluster: Plan) -> None:
    """Waits for the apiserver."""
    trust = ssl.create_default_context(cafile=str(cluster.keys / "ca.crt"))
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"{plan.API}/readyz", timeout=2, context=trust):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the apiserver is not ready within {READY_SECONDS} s: {error}") from error
            time.sleep(0.1)


if __name__ == "__main__":
    main()
