#!/usr/bin/env python3
"""Writes the seeds of the fuzz corpora: `fuzz/seeds.py target/debug/lamina`.

Flists, layers, packs and indexes come from Lamina's own writers, archives from
Python's tarfile and by hand, so that a change of a format is one run of this
script. Only `seed-*` files are replaced: what a fuzzer found stays. Needs root
(device nodes) and the zstd command.
"""

import gzip
import hashlib
import io
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile

CORPUS = pathlib.Path(__file__).resolve().parent / "corpus"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def put(target: str, name: str, data: bytes | str) -> None:
    data = data.encode() if isinstance(data, str) else data
    (CORPUS / target / f"seed-{name}").write_bytes(data)


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def noise(seed: int, size: int) -> bytes:
    return hashlib.shake_128(bytes([seed])).digest(size)


# --- archives ---


def entry(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", link: str = "", **fields):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname, info.mtime = kind, len(data), link, 1
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def archive(entries, form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return trim(out.getvalue())


def trim(tar: bytes) -> bytes:
    """Without the padding to whole records, but with both zero blocks."""
    end = len(tar.rstrip(b"\0"))
    return tar[: (end + 511) // 512 * 512] + bytes(1024)


def layers() -> dict[str, bytes]:
    plain = [
        entry("app", tarfile.DIRTYPE, mode=0o755),
        entry("app/run", data=b"#!/bin/sh\nexec true\n", mode=0o4755, uid=1000),
        entry("app/large", data=noise(1, 3000)),
        entry("app/link", tarfile.SYMTYPE, link="../app/run"),
        entry("app/hard", tarfile.LNKTYPE, link="app/run"),
        entry("dev/null", tarfile.CHRTYPE, devmajor=1, devminor=3),
        entry("dev/disk", tarfile.BLKTYPE, devmajor=8, devminor=0),
        entry("run/fifo", tarfile.FIFOTYPE),
    ]
    whiteouts = [
        entry("app/.wh.run"),
        entry("etc/.wh..wh..opq"),
        entry("etc/new", data=b"new"),
        entry(".wh..wh.aufs"),
        entry("lower-link", tarfile.LNKTYPE, link="app/large"),
        entry("overlay", tarfile.CHRTYPE, devmajor=0, devminor=0),
    ]
    xattrs = {
        "SCHILY.xattr.user.a": "1",
        "SCHILY.xattr.security.capability": "\x01\x02",
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "mtime": "1700000000.123456789",
        "uid": "70000",
    }
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    sparse |= {"GNU.sparse.name": "hole", "GNU.sparse.realsize": "1048576"}
    stored = b"2\n0\n512\n8192\n512\n".ljust(512, b"\0") + noise(2, 1024)
    old = {"GNU.sparse.size": "9000", "GNU.sparse.map": "0,5,8192,3"}
    return {
        "plain": archive(plain),
        "ustar": archive([entry("p" * 90 + "/" + "n" * 90, data=b"x")], tarfile.USTAR_FORMAT),
        "gnu-long": archive(
            [entry("d/" * 80 + "f"), entry("l", tarfile.SYMTYPE, link="t" * 200)],
            tarfile.GNU_FORMAT,
        ),
        "whiteouts": archive(whiteouts),
        "pax": archive([entry("ü/" + "x" * 120, data=b"x", pax_headers=xattrs)]),
        "sparse-1.0": archive([entry("GNUSparseFile.0/hole", data=stored, pax_headers=sparse)]),
        "sparse-0.1": archive([entry("s", data=b"abcdefgh", pax_headers=old)]),
        "sparse-gnu": gnu_sparse(),
        "replaced": archive([entry("a"), entry("a", tarfile.DIRTYPE), entry("a/b"), entry("a")]),
        "through-link": archive(
            [entry("d", tarfile.SYMTYPE, link="/e/../f"), entry("d/../d/x", data=b"y")]
        ),
        "global": archive_global(),
        "empty": bytes(1024),
    }


def gnu_sparse() -> bytes:
    """The old GNU form: the map is in the header."""
    info = tarfile.TarInfo("hole")
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[156:157] = b"S"
    block[124:136] = b"%011o\0" % 8
    for at, number in ((386, 0), (398, 4), (410, 4096), (422, 4), (483, 8192)):
        block[at : at + 12] = b"%011o\0" % number
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + b"abcdefgh".ljust(512, b"\0") + bytes(1024)


def archive_global() -> bytes:
    out = io.BytesIO()
    headers = {"comment": "made by git"}
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers) as tar:
        tar.addfile(*[entry("f")[0], io.BytesIO()])
    return trim(out.getvalue())


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc", "-3"], input=data, stdout=subprocess.PIPE, check=True).stdout


def compressed(tar: bytes) -> None:
    member = gzip.compress(tar, mtime=0)
    frame = zstd(tar)
    skippable = b"\x50\x2a\x4d\x18\x02\0\0\0xx"
    put("compressed", "gzip", member)
    put("compressed", "gzip-two-members", gzip.compress(b"one", mtime=0) + gzip.compress(b"two", mtime=0))
    put("compressed", "gzip-truncated", member[: len(member) // 2])
    put("compressed", "gzip-bomb", gzip.compress(bytes(4 << 20), mtime=0))
    put("compressed", "zstd", frame)
    put("compressed", "zstd-frames", zstd(b"one") + skippable + zstd(b"two"))
    put("compressed", "zstd-bomb", zstd(bytes(4 << 20)))
    put("compressed", "zstd-large-window", b"\x28\xb5\x2f\xfd\x00\xa0\x01\x00\x00")
    put("compressed", "plain", tar[:1024])
    put("compressed", "bzip2", b"BZh91AY&SY")


# --- documents ---


def documents(tar: bytes) -> bytes:
    config = {
        "architecture": "amd64",
        "os": "linux",
        "variant": "v1",
        "config": {"Entrypoint": ["/app/run"], "Env": ["PATH=/bin"], "WorkingDir": "/app"},
        "rootfs": {"type": "layers", "diff_ids": [digest(tar)]},
        "history": [{"created_by": "seed", "empty_layer": True}],
    }
    raw = json.dumps(config).encode()
    blob = lambda kind, data: {"mediaType": kind, "digest": digest(data), "size": len(data)}
    oci = "application/vnd.oci.image."
    docker = "application/vnd.docker.distribution.manifest."
    manifest = {
        "schemaVersion": 2,
        "mediaType": oci + "manifest.v1+json",
        "config": blob(oci + "config.v1+json", raw),
        "layers": [blob(LAYER, tar)],
        "annotations": {"org.opencontainers.image.title": "seed"},
    }
    platform = {"os": "linux", "architecture": "arm", "variant": "v6"}
    index = {
        "schemaVersion": 2,
        "mediaType": oci + "index.v1+json",
        "manifests": [
            blob(oci + "manifest.v1+json", b"a") | {"platform": platform},
            blob(oci + "manifest.v1+json", b"b")
            | {"platform": {"os": "unknown", "architecture": "unknown"}},
        ],
    }
    put("manifest", "config", raw)
    put("manifest", "config-scratch", json.dumps({"rootfs": {"type": "layers", "diff_ids": None}}))
    put("manifest", "oci", json.dumps(manifest))
    put("manifest", "index", json.dumps(index))
    old = manifest | {"mediaType": docker + "v2+json"}
    old["config"] = old["config"] | {"mediaType": "application/vnd.docker.container.image.v1+json"}
    put("manifest", "docker", json.dumps(old))
    put("manifest", "docker-list", json.dumps(index | {"mediaType": docker + "list.v2+json"}))
    put("manifest", "ambiguous", json.dumps(manifest | {"manifests": []}))
    put("manifest", "schema-1", json.dumps({"schemaVersion": 1, "fsLayers": []}))
    put("manifest", "deep", "[" * 200)
    return raw


def docker_configs() -> None:
    password = {"auths": {"registry.example": {"auth": "dXNlcjpzZWNyZXQ="}}}
    for name, config in {
        "password": password,
        "split": {"auths": {"registry.example:5000": {"username": "u", "password": "p"}}},
        "hub": {"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}}},
        "token": {"auths": {"docker.io": {"identitytoken": "t"}}},
        "helper": password | {"credsStore": "desktop", "credHelpers": {"a": "b"}},
        "bad-auth": {"auths": {"registry.example": {"auth": "%%%"}}},
        "empty": {},
    }.items():
        put("docker_config", name, json.dumps(config))


# --- texts ---


def texts() -> None:
    urls = [
        "/srv/packs",
        "./packs",
        "dir:///srv/a%20b%3F",
        "00-7f=s3://KEY:SECRET@bucket/prefix?endpoint=http://127.0.0.1:9000&region=eu-1",
        "s3://bucket?anonymous&allow_http=true&endpoint=https://minio.example/s3",
        "gs://bucket/a/b?credentials=/etc/key.json",
        "az://container/p?account=a&endpoint=http://localhost:10000/a",
        "https://u:p%40x@mirror.example:8443/packs/",
        "oci://registry.example:5000/team/packs?insecure=true",
        "80-ff=dir:///b",
        "s3://u:p@[::1]/x",
        "s3://b?endpoint=http://k:s@host",
        "http://a b@c?x=@",
    ]
    for number, url in enumerate(urls):
        put("store_url", f"{number:02}", url)
    names = [
        "debian:12",
        "registry.example:5000/team/app@" + digest(b""),
        "localhost/a/b:v1.0",
        "[::1]:5000/x",
        "oci:/srv/layout:tag",
        "docker-archive:/nope.tar:app:v1",
        "docker://quay.example/a/b",
        "linux/arm64/v8",
        digest(b"x"),
        hashlib.sha256(b"").hexdigest(),
        "**/*.py[co]\nusr/lib/a.pyc",
        "/a/**/[!x-z]?\\*\na/b/c/d*",
    ]
    for number, name in enumerate(names):
        put("reference", f"{number:02}", name)


# --- programs ---


def elf(wide: bool) -> bytes:
    """A dynamic program: interpreter, one library, a search path."""
    strings = b"\0libc.so.6\0$ORIGIN/../lib\0"
    interpreter = b"/lib64/ld-linux-x86-64.so.2\0"
    word = "Q" if wide else "I"
    header = 64 if wide else 52
    segment = 56 if wide else 32
    start = header + 3 * segment
    dynamic_at = start + len(interpreter) + len(strings)
    strings_at = start + len(interpreter)
    tags = [(1, 1), (29, 11), (5, strings_at), (10, len(strings)), (0, 0)]
    dynamic = b"".join(struct.pack("<" + 2 * word, *tag) for tag in tags)
    size = dynamic_at + len(dynamic)

    def program(kind: int, at: int, length: int, flags: int = 6) -> bytes:
        if wide:
            return struct.pack("<IIQQQQQQ", kind, flags, at, at, at, length, length, 8)
        return struct.pack("<IIIIIIII", kind, at, at, at, length, length, flags, 4)

    ident = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9)
    fields = struct.pack("<HHI" + 3 * word + "IHHHHHH", 3, 62, 1, 0, header, 0, 0, header, segment, 3, 0, 0, 0)
    programs = program(3, start, len(interpreter)) + program(1, 0, size)
    programs += program(2, dynamic_at, len(dynamic))
    return ident + fields + programs + interpreter + strings + dynamic


def programs(config: bytes) -> None:
    put("closure", "elf64", elf(True))
    put("closure", "elf32", elf(False))
    put("closure", "script", "#!/usr/bin/env -S python3 -u\nimport a\n")
    put("closure", "shebang-loop", "#!/app/main -x\n")
    put("closure", "config", config)
    put("closure", "shell-config", json.dumps({"config": {"Cmd": ["/app/main", "-c", "exec 'app/main' && x"]}}))
    put(
        "closure",
        "python",
        '"""import no"""\nfrom __future__ import annotations\nimport os, a.b as c\n'
        "from . import (x,\n  y as z)  # import no\nfrom ..a import *\ntry:\n  import \\\n   a\n"
        "except ImportError: pass\nif x: import os; from a import b\ns = 'import no'\n",
    )
    put("closure", "ld.so.conf", "include ld.so.conf.d/*.conf\n/usr/local/lib # c\n/usr/lib/x86_64-linux-gnu\n")


# --- Lamina's own files ---


def source_tree(root: pathlib.Path) -> None:
    (root / "dir").mkdir(parents=True)
    (root / "dir/small").write_bytes(b"small")
    (root / "dir/empty").touch()
    (root / "dir/large").write_bytes(noise(3, 5000))
    (root / "link").symlink_to("dir/small")
    os.link(root / "dir/large", root / "hard")
    os.mkfifo(root / "fifo")
    os.mknod(root / "device", 0o020644, os.makedev(1, 3))
    os.setxattr(root / "dir/small", "user.a", b"1")
    with open(root / "sparse", "wb") as file:
        file.truncate(1 << 20)
        file.seek(8192)
        file.write(noise(4, 2000))
    for path in [root, *root.rglob("*")]:
        os.utime(path, (1, 1), follow_symlinks=False)


def lamina(program: str, *arguments: object) -> None:
    subprocess.run([program, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def written(program: str, tars: dict[str, bytes], work: pathlib.Path) -> None:
    os.environ["LAMINA_CACHE_DIR"] = str(work / "cache")
    os.environ["XDG_CACHE_HOME"] = str(work / "cache")
    root, store = work / "root", f"dir://{work / 'store'}"
    source_tree(root)
    empty = work / "empty"
    empty.mkdir()
    os.utime(empty, (1, 1))
    for name, source in {"tree": root, "no-entries": empty}.items():
        lamina(program, "pack", source, "-o", work / name, "-s", store, "--tag", "a=b")
        put("flist", name, (work / name).read_bytes())
    lamina(program, "pack", root, "-o", work / "sharded", "-s", "00-7f=" + store, "-s", "80-ff=" + store)
    put("flist", "sharded", (work / "sharded").read_bytes())
    image = work / "image.tar"
    image.write_bytes(docker_archive([tars["plain"], tars["whiteouts"]]))
    options = ["-o", work / "image.fl", "-s", store, "--layers", work / "layers"]
    lamina(program, "convert", f"docker-archive:{image}", *options)
    put("flist", "image", (work / "image.fl").read_bytes())
    for number, layer in enumerate(sorted((work / "layers").iterdir())):
        put("flist", f"layer-{number}", layer.read_bytes())
    objects = [path for path in (work / "store").rglob("*") if path.is_file()]
    for folder in ("packs", "index"):
        found = sorted(path for path in objects if folder in path.parts)
        for number, path in enumerate(found[:3]):
            put("pack", f"{folder}-{number}", path.read_bytes())
    one = next(path for path in objects if "index" in path.parts).read_bytes()
    two = one[:12] + struct.pack("<I", 2) + one[16:] + b"\1" + one[17:]
    put("pack", "index-two-packs", two)
    put("pack", "index-huge-count", one[:12] + b"\xff" * 4 + one[16:])
    put("pack", "no-chunks", bytes(32) + struct.pack("<II", 0, 1) + b"LAMPACK1")


def docker_archive(tars: list[bytes]) -> bytes:
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/app/run"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(tar) for tar in tars]},
    }
    names = [f"{number}.tar" for number in range(len(tars))]
    manifest = [{"Config": "config.json", "RepoTags": ["seed:1"], "Layers": names}]
    files = {"manifest.json": json.dumps(manifest).encode(), "config.json": json.dumps(config).encode()}
    files |= dict(zip(names, tars))
    return archive([entry(name, data=data) for name, data in files.items()])


def main() -> None:
    (program,) = sys.argv[1:]
    for target in (path.stem for path in (CORPUS.parent / "bodies").glob("*.rs")):
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
        for old in (CORPUS / target).glob("seed-*"):
            old.unlink()
    tars = layers()
    for name, tar in tars.items():
        put("layer_tar", name, tar)
    compressed(tars["plain"])
    programs(documents(tars["plain"]))
    docker_configs()
    texts()
    work = pathlib.Path(tempfile.mkdtemp(prefix="lamina-seeds"))
    try:
        written(os.path.abspath(program), tars, work)
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
