"""The configuration of every program, as text. Pure: what is written where is decided by the callers."""

import base64
import json
import pathlib

from . import plan
from .plan import Node, Plan

# Where a node finds its own keys, certificates and settings, inside its root.
NODE_FOLDER = "/etc/lamina-cluster"


def kubeconfig(keys: pathlib.Path, user: str, server: str) -> str:
    """A kubeconfig with everything in it. JSON is YAML."""
    def data(name: str) -> str:
        return base64.b64encode((keys / name).read_bytes()).decode()

    return json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "lamina",
        "clusters": [{"name": "lamina", "cluster": {"server": server, "certificate-authority-data": data("ca.crt")}}],
        "users": [{"name": user, "user": {"client-certificate-data": data(f"{user}.crt"), "client-key-data": data(f"{user}.key")}}],
        "contexts": [{"name": "lamina", "context": {"cluster": "lamina", "user": user}}],
    }, indent=1)


def registry(cluster: Plan) -> str:
    """The registry: plain HTTP on the bridge."""
    return json.dumps({
        "version": 0.1, "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(cluster.state / "registry")}, "delete": {"enabled": True}},
        "http": {"addr": plan.REGISTRY},
    })


def etcd(cluster: Plan) -> list[str]:
    """etcd for one process's life: no fsync."""
    client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
    return ["etcd", "--name=e", f"--data-dir={cluster.state}/etcd", f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=e={peer}", "--unsafe-no-fsync", "--log-level=warn"]


def apiserver(cluster: Plan) -> list[str]:
    """kube-apiserver. No kube-proxy runs beside it, so it resolves services to endpoints itself."""
    keys = cluster.keys
    return [
        "kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", f"--bind-address={plan.GATEWAY}",
        f"--advertise-address={plan.GATEWAY}", f"--secure-port={plan.API_PORT}",
        f"--service-cluster-ip-range={plan.SERVICE_RANGE}", "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true",
        f"--client-ca-file={keys}/ca.crt", f"--tls-cert-file={keys}/apiserver.crt", f"--tls-private-key-file={keys}/apiserver.key",
        f"--kubelet-certificate-authority={keys}/ca.crt", f"--kubelet-client-certificate={keys}/apiserver-kubelet-client.crt",
        f"--kubelet-client-key={keys}/apiserver-kubelet-client.key", "--kubelet-preferred-address-types=InternalIP,Hostname",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={keys}/accounts.pub", f"--service-account-signing-key-file={keys}/accounts.key",
        f"--requestheader-client-ca-file={keys}/front-proxy-ca.crt", "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-", "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User", f"--proxy-client-cert-file={keys}/front-proxy-client.crt",
        f"--proxy-client-key-file={keys}/front-proxy-client.key", "--enable-aggregator-routing=true",
    ]


def controller_manager(cluster: Plan) -> list[str]:
    """kube-controller-manager. Pod ranges are fixed by the plan."""
    keys, own = cluster.keys, f"{cluster.keys}/controller-manager.conf"
    return [
        "kube-controller-manager", *_client(own), f"--root-ca-file={keys}/ca.crt",
        f"--service-account-private-key-file={keys}/accounts.key", "--use-service-account-credentials=true",
        f"--cluster-signing-cert-file={keys}/ca.crt", f"--cluster-signing-key-file={keys}/ca.key",
        f"--cluster-cidr={plan.POD_RANGE}", "--allocate-node-cidrs=false", "--node-monitor-grace-period=20s",
        f"--requestheader-client-ca-file={keys}/front-proxy-ca.crt",
    ]


def scheduler(cluster: Plan) -> list[str]:
    """kube-scheduler."""
    return ["kube-scheduler", *_client(f"{cluster.keys}/scheduler.conf")]


def _client(own: str) -> list[str]:
    return [f"--kubeconfig={own}", f"--authentication-kubeconfig={own}", f"--authorization-kubeconfig={own}",
            "--bind-address=127.0.0.1", "--leader-elect=false"]


def containerd(runc: pathlib.Path) -> str:
    """containerd's config.toml.

    `restrict_oom_score_adj`: machines without CAP_SYS_RESOURCE must not lower it, and need not.
    """
    runtime = "plugins.'io.containerd.cri.v1.runtime'"
    images = "plugins.'io.containerd.cri.v1.images'"
    return f"""\
version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[{images}]
  snapshotter = "overlayfs"
[{images}.pinned_images]
  sandbox = "{plan.PAUSE_IMAGE}"
[{images}.registry]
  config_path = "/etc/containerd/certs.d"
[{runtime}]
  restrict_oom_score_adj = true
[{runtime}.containerd]
  default_runtime_name = "runc"
[{runtime}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[{runtime}.containerd.runtimes.runc.options]
  BinaryName = "{runc}"
  SystemdCgroup = false
[{runtime}.cni]
  bin_dirs = ["/opt/cni/bin"]
  conf_dir = "/etc/cni/net.d"
"""


def registry_hosts() -> str:
    """hosts.toml: whatever registry a name says, the local one is asked, and no other."""
    return f'server = "http://{plan.REGISTRY}"\n[host."http://{plan.REGISTRY}"]\n  capabilities = ["pull", "resolve"]\n'


def network(node: Node) -> str:
    """The CNI chain: a bridge a node; other nodes' pods are reached by static routes."""
    ipam = {"type": "host-local", "ranges": [[{"subnet": node.pods}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "/run/cni-ipam"}
    return json.dumps({"cniVersion": "1.0.0", "name": "pods", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False, "hairpinMode": True, "ipam": ipam},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ]})


def kubelet(node: Node) -> str:
    """KubeletConfiguration. Eviction only when the disk is all but full: it is the machine's own disk.

    What tests kill again and again is started again after a second, not after minutes.
    """
    return json.dumps({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "address": node.address, "port": 10250, "healthzBindAddress": "127.0.0.1", "healthzPort": 10248,
        "failCgroupV1": False, "failSwapOn": False, "cgroupDriver": "cgroupfs",
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "clusterDNS": [plan.SERVICE_DNS], "clusterDomain": "cluster.local", "resolvConf": "/etc/resolv.conf",
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": True},
                           "x509": {"clientCAFile": f"{NODE_FOLDER}/ca.crt"}},
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{NODE_FOLDER}/{node.name}.crt", "tlsPrivateKeyFile": f"{NODE_FOLDER}/{node.name}.key",
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%", "nodefs.inodesFree": "1%"},
        "imageGCHighThresholdPercent": 99, "imageGCLowThresholdPercent": 98, "maxPods": 150,
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
        # Shows the condition of volumes in the summary, and says it on their pods.
        "featureGates": {"CSIVolumeHealth": True},
        "nodeStatusUpdateFrequency": "4s", "syncFrequency": "10s", "volumeStatsAggPeriod": "30s",
    })


def proxy(node: Node) -> str:
    """KubeProxyConfiguration. Conntrack limits are the machine's, not the node's: left alone."""
    return json.dumps({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": f"{NODE_FOLDER}/proxy.conf"}, "mode": "iptables",
        "clusterCIDR": plan.POD_RANGE, "hostnameOverride": node.name, "bindAddress": node.address,
        "healthzBindAddress": "127.0.0.1:10256", "metricsBindAddress": "127.0.0.1:10249",
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    })


def policies(node: Node) -> list[str]:
    """kube-router, for NetworkPolicies alone: iptables and ipsets before the rules of kube-proxy.

    It goes through all rules whenever a pod changes, which must not slow down what is tested.
    """
    return ["nice", "-n", "5", plan.POLICIES, "--run-firewall=true", "--run-router=false", "--run-service-proxy=false",
            f"--kubeconfig={NODE_FOLDER}/policies.conf", f"--hostname-override={node.name}",
            f"--service-cluster-ip-range={plan.SERVICE_RANGE}", "--health-addr=127.0.0.1", "--v=1"]
