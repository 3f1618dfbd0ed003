"""The test cluster's commands. `--provider` (or PROVIDER) is local or kind; see docs/cluster.md.

    up                         brings it up; does nothing when it is up
    down                       removes every trace of it, however far it came up
    status                     up, down, or what is broken; exit status 0, 3, 1
    kubeconfig                 prints the path for KUBECONFIG
    nodes                      prints the names of the nodes
    load-image ARCHIVE         makes an OCI archive's images available on every node
    node-exec NODE CMD...      runs a command as root in a node
    kill-kubelet NODE          SIGKILL; it stays away
    restart-kubelet NODE       starts it, ending it first where it runs
    kill-node NODE             ends a whole node, as a power cut would; its disk stays
    start-node NODE            starts it again
    registry                   the local registry's addresses: in the cluster, on this machine
    build [SET...]             builds the programs that the cache lacks, or these
    diagnose                   collects what can be found out; prints the folder
    smoke                      brings a cluster up, tries it, takes it down, looks for traces
"""

import argparse
import pathlib
import signal
import subprocess
import sys

from . import provider, tools
from .provider import ClusterError, Provider


def main(words: list[str]) -> int:
    """Runs one command; its exit status."""
    given = parse(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return VERBS[given.verb](provider(given.provider), *given.arguments) or 0
    except (ClusterError, OSError, RuntimeError) as error:
        print(f"e2e.cluster {given.verb}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: make cluster-down removes what is there", file=sys.stderr)
        return 130


def parse(words: list[str]) -> argparse.Namespace:
    """The command line: a verb, and as many arguments as it takes."""
    parser = argparse.ArgumentParser(prog="python3 -m e2e.cluster", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--provider", choices=["local", "kind"])
    parser.add_argument("verb", choices=VERBS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args(words)
    least, most = ARGUMENTS.get(given.verb, (0, 0))
    if not least <= len(given.arguments) <= most:
        parser.error(f"{given.verb} takes {least or 'no'} argument{'' if least == 1 else 's'}, see --help")
    return given


def up(cluster: Provider) -> None:
    """Brings it up and says how to use it."""
    cluster.up()
    print(f"export KUBECONFIG={cluster.kubeconfig()}")
    if folder := cluster.programs():
        print(f"export PATH={folder}:$PATH  # kubectl and helm of this cluster")


def status(cluster: Provider) -> int:
    """Prints the status."""
    said = cluster.status()
    print(said)
    return {"up": 0, "down": 3}.get(said, 1)


def load_image(cluster: Provider, archive: str) -> None:
    """Prints the names that were loaded."""
    for name in cluster.load_image(pathlib.Path(archive)):
        print(name)


def node_exec(cluster: Provider, node: str, *command: str) -> int:
    """Runs a command with this process's input and output."""
    return subprocess.run(cluster.node_exec(node, list(command) or ["bash"])).returncode


def registry(cluster: Provider) -> None:
    """Prints both addresses."""
    for address in cluster.registry():
        print(address)


def diagnose(cluster: Provider) -> None:
    """Prints the folder."""
    from .diagnose import collect

    print(collect(cluster))


def smoke(cluster: Provider) -> int:
    """Runs the story."""
    from .smoke import story

    return story(cluster)


VERBS = {
    "up": up,
    "down": lambda cluster: cluster.down(),
    "status": status,
    "kubeconfig": lambda cluster: print(cluster.kubeconfig()),
    "nodes": lambda cluster: print(*cluster.nodes(), sep="\n"),
    "load-image": load_image,
    "node-exec": node_exec,
    "kill-kubelet": lambda cluster, node: cluster.kill_kubelet(node),
    "restart-kubelet": lambda cluster, node: cluster.restart_kubelet(node),
    "kill-node": lambda cluster, node: cluster.kill_node(node),
    "start-node": lambda cluster, node: cluster.start_node(node),
    "registry": registry,
    "build": lambda cluster, *names: tools.build(*names),
    "diagnose": diagnose,
    "smoke": smoke,
}

# How many arguments a verb takes, where it takes any: at least, at most.
ARGUMENTS = {"node-exec": (1, sys.maxsize), "build": (0, sys.maxsize)}
ARGUMENTS |= {verb: (1, 1) for verb in ("load-image", "kill-kubelet", "restart-kubelet", "kill-node", "start-node")}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
