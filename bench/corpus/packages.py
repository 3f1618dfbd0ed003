"""Recipes that fill a root file system from Debian packages and Python wheels.

Only the ordinary clients fetch: `apt-get` against a private, otherwise empty dpkg state (so
it names the full closure), and `pip download` of pinned wheels. Packages are unpacked, not
configured: no maintainer script runs.
"""

import pathlib
import re
import shutil
import subprocess
import tempfile
import zipfile

from .paths import CACHE

# Besides "Essential: yes", what makes a minimal Debian that one can log into.
BASE_PACKAGES = [
    "base-files", "base-passwd", "bash", "coreutils", "dash", "debianutils", "diffutils", "dpkg",
    "findutils", "grep", "gzip", "hostname", "init-system-helpers", "libc-bin", "login", "mawk",
    "ncurses-base", "passwd", "perl-base", "sed", "sysvinit-utils", "tar", "tzdata", "util-linux",
    "apt", "ca-certificates", "debian-archive-keyring",
]
# Layers clamp mtimes, so byte code must not be tied to them.
UNCHECKED = ["--invalidation-mode", "unchecked-hash"]
SITE = "usr/local/lib/python3.11/dist-packages"


def debian_base(root: pathlib.Path) -> dict:
    """A minimal Debian 12 with merged /usr."""
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    record = debian_packages(root, BASE_PACKAGES)
    for name in ("passwd", "group"):
        shutil.copyfile(root / f"usr/share/base-passwd/{name}.master", root / f"etc/{name}")
    (root / "etc/hostname").write_text("lamina\n")
    (root / "etc/resolv.conf").touch()
    if not (root / "usr/bin/awk").exists():
        (root / "usr/bin/awk").symlink_to("mawk")
    for path, mode in (("tmp", 0o1777), ("var/tmp", 0o1777), ("root", 0o700), ("dev", 0o755), ("proc", 0o555), ("sys", 0o555)):
        (root / path).mkdir(parents=True, exist_ok=True)
        (root / path).chmod(mode)
    return record


def debian_packages(root: pathlib.Path, names: list[str]) -> dict:
    """Unpacks Debian packages `names` and all they depend on that `root` lacks."""
    status = root / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True, exist_ok=True)
    status.touch()
    installed = {}
    with tempfile.TemporaryDirectory(prefix="lamina-apt-") as state:
        for archive in _download_closure(names, status, pathlib.Path(state)):
            subprocess.run(["dpkg-deb", "-x", archive, root], check=True)
            about = subprocess.run(["dpkg-deb", "-f", archive], check=True, capture_output=True, text=True).stdout
            fields = dict(re.findall(r"^(Package|Version): (.*)$", about, re.MULTILINE))
            installed[fields["Package"]] = fields["Version"]
            with open(status, "a") as out:
                out.write(about.replace("\nVersion:", "\nStatus: install ok installed\nVersion:", 1) + "\n")
    subprocess.run(["ldconfig", "-r", root], check=True)
    compile_python(root, ["usr/lib/python3.11", "usr/lib/python3/dist-packages"])
    return {"debian": installed}


def blas_alternatives(root: pathlib.Path) -> None:
    """What the maintainer scripts of the BLAS packages would link."""
    libraries = root / "usr/lib/x86_64-linux-gnu"
    for target in ("blas/libblas.so.3", "lapack/liblapack.so.3"):
        (libraries / pathlib.Path(target).name).symlink_to(target)


def _download_closure(names: list[str], status: pathlib.Path, state: pathlib.Path) -> list[pathlib.Path]:
    archives = CACHE / "debs"
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    # Debian's own archive only, whatever other sources this machine has.
    preferences = state / "preferences"
    preferences.write_text("Package: *\nPin: release o=Debian\nPin-Priority: 900\n\nPackage: *\nPin: release o=*\nPin-Priority: -1\n")
    options = [
        "-o", f"Dir::State::status={status}", "-o", f"Dir::Cache::archives={archives}/",
        "-o", f"Dir::Etc::preferences={preferences}", "-o", "APT::Install-Recommends=false",
        "-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=true",
    ]
    # apt leaves out of this list what it already has, so it is shown an empty archive.
    (state / "partial").mkdir()
    unseen = ["-o", f"Dir::Cache::archives={state}/"]
    plan = subprocess.run(["apt-get", *options, *unseen, "-qq", "--print-uris", "install", *names], check=True, capture_output=True, text=True)
    files = [line.split()[1] for line in plan.stdout.splitlines() if line.startswith("'")]
    subprocess.run(["apt-get", *options, "-qq", "-y", "--download-only", "install", *names], check=True, stdout=subprocess.DEVNULL)
    return [archives / name for name in sorted(files)]


def wheels(root: pathlib.Path, pins: list[str]) -> dict:
    """Unpacks pinned wheels for Debian 12's Python into dist-packages, as pip would."""
    site = root / SITE
    site.mkdir(parents=True, exist_ok=True)
    for pin in pins:
        with zipfile.ZipFile(_download_wheel(pin)) as wheel:
            _unpack_wheel(wheel, site)
    compile_python(root, [SITE])
    return {"wheels": pins}


def _download_wheel(pin: str) -> pathlib.Path:
    target = CACHE / "wheels" / pin
    found = list(target.glob("*.whl"))
    if not found:
        platforms = ["manylinux_2_34_x86_64", "manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64"]
        command = ["python3", "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "--python-version", "3.11", "--implementation", "cp"]
        for platform in platforms:
            command += ["--platform", platform]
        subprocess.run([*command, "-d", target, pin], check=True)
        found = list(target.glob("*.whl"))
    return found[0]


def _unpack_wheel(wheel: zipfile.ZipFile, site: pathlib.Path) -> None:
    for info in wheel.infolist():
        name = info.filename
        data = re.match(r"[^/]+\.data/(purelib|platlib)/(.*)", name)
        if data:
            name = data[2]
        elif ".data/" in name.split("/", 1)[0] + "/":
            continue  # scripts and headers are not needed to import
        if name.endswith("/") or name.startswith("/") or ".." in name.split("/"):
            continue
        target = site / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with wheel.open(info) as source, open(target, "wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
        target.chmod(0o755 if (info.external_attr >> 16) & 0o111 else 0o644)


def compile_python(root: pathlib.Path, folders: list[str]) -> None:
    """Byte-compiles Python code with the image's own interpreter, as installers do."""
    present = [f"/{folder}" for folder in folders if (root / folder).is_dir()]
    if present and (root / "usr/bin/python3.11").exists():
        # Some packages ship templates that are not valid Python: not an error for pip either.
        subprocess.run(["chroot", root, "/usr/bin/python3.11", "-m", "compileall", "-q", *UNCHECKED, *present],
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
