"""The cluster's programs, built from Go modules at the versions of `versions.toml`.

A set of programs that share a module graph is built together and kept in
`<cache>/lamina/tools/cluster-<set>-<version>-<recipe>/bin`. That folder appears by one rename when
all of it is built, so what is there is complete, a clone made later finds it, and an interrupted
build is simply done again. Two callers at once wait for each other.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
import tomllib

from .paths import REPOSITORY, TOOLS

HERE = pathlib.Path(__file__).parent
VERSIONS: dict[str, str] = tomllib.loads((HERE / "versions.toml").read_text())

KUBERNETES = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
CONTAINERD = "github.com/containerd/containerd/v2"
CNI = "github.com/containernetworking/plugins/plugins"


@dataclasses.dataclass(frozen=True)
class Program:
    """One main package and how it is built."""

    name: str
    package: str
    tags: str = ""
    ldflags: str = ""
    cgo: bool = False


@dataclasses.dataclass(frozen=True)
class Set:
    """Programs of one upstream project at one version: one build, one folder in the cache."""

    name: str
    programs: tuple[Program, ...]
    # Names the programs are called by besides their own.
    links: tuple[tuple[str, str], ...] = ()
    # A folder beside this file with a main package of ours, in a module that requires k8s.io/kubernetes.
    source: str = ""
    # Whose version it has, if not its own.
    pinned: str = ""
    # Built only when asked for by name.
    optional: bool = False
    # Modules taken at another version than the set requires.
    replaced: tuple[tuple[str, str], ...] = ()

    @property
    def version(self) -> str:
        """The pinned version, without `v`."""
        return VERSIONS[self.pinned or self.name]

    @property
    def home(self) -> pathlib.Path:
        """Its folder in the cache; changes with the version and with how it is built."""
        recipe = json.dumps([self.name, [dataclasses.astuple(one) for one in self.programs], self.links])
        recipe += "".join(path.read_text() for path in self.sources())
        recipe += "".join(f"{module}@{version}" for module, version in self.replaced)
        return TOOLS / f"cluster-{self.name}-{self.version}-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}"

    def sources(self) -> list[pathlib.Path]:
        """The files of its `source`."""
        return sorted((HERE / self.source).glob("*.go")) if self.source else []


def _kubernetes() -> Set:
    version = VERSIONS["kubernetes"]
    major, minor, _ = version.split(".")
    stamp = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor}
    flags = " ".join(f"-X k8s.io/component-base/version.{key}={value}" for key, value in stamp.items())
    return Set("kubernetes", (Program("hyper", ".", ldflags=flags),), tuple((name, "hyper") for name in KUBERNETES),
               source="hyper")


# Smallest first: what can fail for want of a package fails before the long build.
SETS = (
    # Static, as the node's root may be any file system; seccomp because containerd's default profile asks for it.
    Set("runc", (Program("runc", "github.com/opencontainers/runc", "seccomp,netgo,osusergo",
                         f"-X main.version={VERSIONS['runc']} -linkmode external -extldflags -static", cgo=True),)),
    Set("cni", tuple(Program(package.split("/")[1], f"{CNI}/{package}") for package in
                     ("main/bridge", "main/loopback", "ipam/host-local", "meta/portmap"))),
    Set("csi-sanity", (Program("csi-sanity", "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity"),)),
    Set("etcd", (Program("etcd", "go.etcd.io/etcd/server/v3"),)),
    Set("containerd", (
        Program("containerd", f"{CONTAINERD}/cmd/containerd", "no_btrfs,no_devmapper,no_zfs",
                f"-X {CONTAINERD}/version.Version=v{VERSIONS['containerd']}"),
        Program("containerd-shim-runc-v2", f"{CONTAINERD}/cmd/containerd-shim-runc-v2"),
        Program("ctr", f"{CONTAINERD}/cmd/ctr", "no_btrfs,no_devmapper,no_zfs"),
    )),
    Set("coredns", (Program("coredns", "github.com/coredns/coredns"),)),
    # Keeps NetworkPolicies. It asks for a commit of netlink between two versions, which not every module proxy has;
    # the policies need nothing newer than the version before it.
    Set("kube-router", (Program("kube-router", "github.com/cloudnativelabs/kube-router/v2/cmd/kube-router"),),
        replaced=(("github.com/vishvananda/netlink", "v1.3.1"),)),
    _kubernetes(),
    Set("helm", (Program("helm", "helm.sh/helm/v3/cmd/helm"),)),
    # Upstream's external-storage suites, and the program of the image that their pods run.
    Set("suites", (Program("suites", "."), Program("agnhost", "k8s.io/kubernetes/test/images/agnhost")),
        source="suites", pinned="kubernetes", optional=True),
)


def program(name: str) -> pathlib.Path:
    """The path of a built program. `build` has run."""
    for group in SETS:
        path = group.home / "bin" / name
        if path.exists():
            return path
    raise FileNotFoundError(f"{name} is not built: run make cluster-tools")


def folders() -> list[pathlib.Path]:
    """Every set's bin folder, to put into PATH."""
    return [group.home / "bin" for group in SETS]


def registry() -> pathlib.Path:
    """The registry server, which tests and benchmarks share."""
    made = subprocess.run([REPOSITORY / "scripts/tools.sh", "registry"], check=True, stdout=subprocess.PIPE, text=True)
    return pathlib.Path(made.stdout.strip())


def build(*names: str) -> None:
    """Builds what the cache lacks of these sets, or of all, one after another, and says so."""
    chosen = [group for group in SETS if (group.name in names if names else not group.optional)]
    if all(group.home.is_dir() for group in chosen):
        return
    if shutil.which("go") is None:
        raise RuntimeError("the cluster's programs are built with Go: install it (https://go.dev/dl) and run this again")
    TOOLS.mkdir(parents=True, exist_ok=True)
    for group in chosen:
        with _locked(group.name):
            if group.home.is_dir():
                continue
            print(f"  building {group.name} {group.version} ...", flush=True)
            started = time.monotonic()
            _build(group)
            print(f"  built {group.name} {group.version} in {time.monotonic() - started:.0f} s", flush=True)


@contextlib.contextmanager
def _locked(name: str):
    with open(TOOLS / f".cluster-{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(group: Set) -> None:
    for killed in TOOLS.glob(f".cluster-{group.name}.*/"):
        shutil.rmtree(killed)
    work = pathlib.Path(tempfile.mkdtemp(prefix=f".cluster-{group.name}.", dir=TOOLS))
    try:
        module, done = work / "module", work / "done"
        (done / "bin").mkdir(parents=True)
        module.mkdir()
        _module(group, module)
        for one in group.programs:
            _compile(one, module, done / "bin" / one.name)
        for name, target in group.links:
            (done / "bin" / name).symlink_to(target)
        os.rename(done, group.home)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _module(group: Set, where: pathlib.Path) -> None:
    """A module that requires the set at its version. Not `go install`: that refuses modules with `replace`."""
    _go(where, "mod", "init", "lamina.test/tools")
    if group.source:
        for path in group.sources():
            shutil.copy(path, where)
        _kubernetes_requirements(group.version, where)
        _go(where, "mod", "tidy")
        return
    for module, version in group.replaced:
        _go(where, "mod", "edit", f"-replace={module}={module}@{version}")
    for one in group.programs:
        _go(where, "get", "-tool", f"{one.package}@v{group.version}")


def _kubernetes_requirements(version: str, where: pathlib.Path) -> None:
    """k8s.io/kubernetes is made for being the main module: its `replace => ./staging` are repeated as versions."""
    main = f"k8s.io/kubernetes@v{version}"
    about = json.loads(_go(where, "mod", "download", "-json", main))
    _go(where, "mod", "edit", f"-require={main}")
    for module in staging_modules(pathlib.Path(about["GoMod"]).read_text()):
        _go(where, "mod", "edit", f"-replace={module}={module}@v0.{version.split('.', 1)[1]}")


def staging_modules(go_mod: str) -> list[str]:
    """The modules that a Kubernetes go.mod takes from its staging folder."""
    return re.findall(r"^\s*(?:replace )?(k8s\.io/[a-z0-9.-]+) => \./staging/", go_mod, re.MULTILINE)


def _compile(one: Program, module: pathlib.Path, out: pathlib.Path) -> None:
    words = ["build", "-trimpath", "-buildvcs=false", "-o", str(out), "-ldflags", f"-s -w {one.ldflags}".strip()]
    if one.tags:
        words += ["-tags", one.tags]
    _go(module, *words, one.package, cgo=one.cgo)


def _go(where: pathlib.Path, *words: str, cgo: bool = False) -> str:
    # GOGC: the compiler may use more memory and takes a sixth less time.
    environment = {"GOGC": "400", **os.environ, "CGO_ENABLED": "1" if cgo else "0", "GOWORK": "off"}
    done = subprocess.run(["nice", "-n", "10", "go", *words], cwd=where, env=environment,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        tail = "\n".join(done.stderr.strip().splitlines()[-20:])
        raise RuntimeError(f"go {' '.join(words)} failed:\n{tail}")
    return done.stdout
