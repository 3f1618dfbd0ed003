"""A node: its own network, mounts, host name, IPC, processes and cgroups, on this machine's kernel.

    python3 -m e2e.cluster.node enter NODE    joins the node's cgroups and becomes the next
    python3 -m e2e.cluster.node init NODE     first process of the node's PID namespace

Its root shows the machine's own read-only, with a tmpfs on top for what the node writes. The folders
that hold data (`plan.DISK_FOLDERS`) are on the real disk, as hostPath volumes, snapshots and file-backed
mounts want it; /run and /tmp are its own. Every mount is shared, so that what a pod mounts
below a volume with Bidirectional propagation is seen by the node and by other pods.
"""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

from . import cgroups, config, plan, tools
from .plan import Node, Plan
from .supervise import Supervisor

CONTAINERD_SOCKET = pathlib.Path("/run/containerd/containerd.sock")
# Global settings that kubelet insists on writing. The node sees files that already hold what it wants.
SYSCTLS = {"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
           "kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000"}
WAIT_SECONDS = 60


def enter(cluster: Plan, node: Node) -> None:
    """Takes the node's cgroups and namespaces, and goes on as `init`."""
    cgroups.join(f"{cluster.tag}-{node.name}", cluster.cgroups)
    os.execvp("unshare", ["unshare", "--mount", "--propagation=slave", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--fork",
                          "--kill-child", sys.executable, "-m", "e2e.cluster.node", "init", node.name])


def init(cluster: Plan, node: Node) -> None:
    """Makes the node and runs its programs until the end."""
    logs = cluster.logs / node.name
    logs.mkdir(exist_ok=True)
    supervisor = Supervisor(node.control, logs)
    runtime = supervisor.add("containerd", ["containerd", "--config=/etc/containerd/config.toml", "--log-level=info"])
    kubelet = supervisor.add("kubelet", [
        "kubelet", f"--config={config.NODE_FOLDER}/kubelet.yaml", f"--kubeconfig={config.NODE_FOLDER}/{node.name}.conf",
        f"--hostname-override={node.name}", f"--node-ip={node.address}", "--root-dir=/var/lib/kubelet", "--v=2"])
    proxy = supervisor.add("kube-proxy", ["kube-proxy", f"--config={config.NODE_FOLDER}/proxy.yaml"])
    # Started from outside once Kubernetes knows the node: without it, it gives up.
    supervisor.add(plan.POLICIES, config.policies(node))
    root = make_root(node)
    write_settings(cluster, node, root)
    change_root(root)
    socket.sethostname(node.name)
    join_network(cluster, node)
    runtime.start()
    _until("containerd listens", CONTAINERD_SOCKET.exists)
    kubelet.start()
    proxy.start()
    supervisor.run()


def make_root(node: Node) -> pathlib.Path:
    """Mounts the node's root file system, not yet as root."""
    scratch = node.home / "mnt"
    scratch.mkdir(exist_ok=True)
    _mount("-t", "tmpfs", "-o", "size=2g,mode=755", "node", scratch)
    upper, work, root = (scratch / name for name in ("upper", "work", "root"))
    for folder in (upper, work, root):
        folder.mkdir()
    _mount("-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={upper},workdir={work}", root)
    for name in plan.DISK_FOLDERS:
        (node.home / name).mkdir(exist_ok=True)
        _bind(node.home / name, root / "var/lib" / name)
    tools.TOOLS.mkdir(parents=True, exist_ok=True)
    _bind(tools.TOOLS, _below(root, tools.TOOLS))
    for target, options in (("run", "mode=755,size=512m"), ("tmp", "mode=1777")):
        _mount("-t", "tmpfs", "-o", options, "tmpfs", root / target)
    _mount("--rbind", "/dev", root / "dev")
    _mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", root / "dev/shm")
    _mount("-t", "proc", "proc", root / "proc")
    _mount("-t", "sysfs", "sysfs", root / "sys")
    if (root / "sys/fs/fuse/connections").exists():
        _mount("-t", "fusectl", "fusectl", root / "sys/fs/fuse/connections")
    _mount_cgroups(root)
    _hide_sysctls(root)
    return root


def _mount_cgroups(root: pathlib.Path) -> None:
    """Every v1 hierarchy, with the node's own cgroup as its root."""
    top = root / "sys/fs/cgroup"
    _mount("-t", "tmpfs", "-o", "mode=755", "cgroup", top)
    for hierarchy in cgroups.mine():
        (top / hierarchy.folder).mkdir()
        named = hierarchy.controllers.startswith("name=")
        _mount("-t", "cgroup", "-o", f"none,{hierarchy.controllers}" if named else hierarchy.controllers, "cgroup", top / hierarchy.folder)


def _hide_sysctls(root: pathlib.Path) -> None:
    folder = root / "run/sysctl"
    folder.mkdir()
    for name, value in SYSCTLS.items():
        if (real := root / "proc/sys" / name).exists():
            shown = folder / name.replace("/", "_")
            shown.write_text(f"{value}\n")
            _mount("--bind", shown, real)


def write_settings(cluster: Plan, node: Node, root: pathlib.Path) -> None:
    """Writes every file the node's programs read."""
    own = _below(root, pathlib.Path(config.NODE_FOLDER))
    for folder in ("etc/cni", "etc/containerd"):
        shutil.rmtree(root / folder, ignore_errors=True)
    for folder in ("etc/cni/net.d", "etc/containerd/certs.d/_default", "opt/cni/bin", own.relative_to(root), "run/lock"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name in ("ca.crt", f"{node.name}.crt", f"{node.name}.key"):
        shutil.copy(cluster.keys / name, own)
    texts = {
        own / f"{node.name}.conf": config.kubeconfig(cluster.keys, node.name, plan.API),
        own / "proxy.conf": config.kubeconfig(cluster.keys, "proxy", plan.API),
        own / "policies.conf": config.kubeconfig(cluster.keys, "policies", plan.API),
        own / "kubelet.yaml": config.kubelet(node),
        own / "proxy.yaml": config.proxy(node),
        root / "etc/containerd/config.toml": config.containerd(tools.program("runc")),
        root / "etc/containerd/certs.d/_default/hosts.toml": config.registry_hosts(),
        root / "etc/cni/net.d/10-pods.conflist": config.network(node),
        root / "etc/hosts": "".join(f"{peer.address} {peer.name}\n" for peer in cluster.nodes) + "127.0.0.1 localhost\n",
        root / "etc/resolv.conf": "nameserver 127.0.0.1\n",
    }
    for path, text in texts.items():
        path.unlink(missing_ok=True)  # on some machines a link into /run
        path.write_text(text)
    for name in ("bridge", "loopback", "host-local", "portmap"):
        (link := root / "opt/cni/bin" / name).unlink(missing_ok=True)
        link.symlink_to(tools.program(name))


def change_root(root: pathlib.Path) -> None:
    """Makes `root` the root and drops the machine's mounts, which would otherwise be pinned."""
    (root / ".old").mkdir(exist_ok=True)
    os.chdir(root)
    # It moves every process of this mount namespace whose root was the old one, so also this one.
    subprocess.run(["pivot_root", ".", ".old"], check=True)
    os.chroot(".")
    os.chdir("/")
    subprocess.run(["umount", "-l", "/.old"], check=True)
    os.rmdir("/.old")
    _mount("--make-rshared", "/")


def join_network(cluster: Plan, node: Node) -> None:
    """Waits for the cable and sets addresses and routes."""
    _until("eth0 is there", lambda: "eth0" in (name for _, name in socket.if_nameindex()))
    for line in network_commands(cluster, node):
        subprocess.run(["ip", *line.split()], check=True)
    for name in ("ipv4/ip_forward", "ipv4/conf/all/route_localnet", "bridge/bridge-nf-call-iptables"):
        if (setting := pathlib.Path("/proc/sys/net", name)).exists():
            setting.write_text("1")


def network_commands(cluster: Plan, node: Node) -> list[str]:
    """What `ip` is told inside of the node."""
    return [
        "link set lo up", f"addr add {node.address}/24 dev eth0", "link set eth0 up", f"route add default via {plan.GATEWAY}",
        *(f"route add {peer.pods} via {peer.address}" for peer in cluster.nodes if peer != node),
    ]


def _below(root: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
    return root / path.relative_to("/")


def _bind(source: pathlib.Path, target: pathlib.Path) -> None:
    # Not --rbind: mounts of others below the source would be pinned.
    target.mkdir(parents=True, exist_ok=True)
    _mount("--bind", source, target)


def _mount(*words: object) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


def _until(what: str, ready) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {WAIT_SECONDS} s")
        time.sleep(0.05)


def main() -> None:
    """See the head of this file."""
    verb, name = sys.argv[1:]
    cluster = plan.here()
    {"enter": enter, "init": init}[verb](cluster, cluster.node(name))


if __name__ == "__main__":
    main()
