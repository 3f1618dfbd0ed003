"""Recipes for trees that are unusual on purpose: every kind of entry, and many small files."""

import io
import random
import tarfile

from .layers import EPOCH

LONG_NAME = "n" * 255
NOT_UTF8 = b"latin-\xe9-\xff".decode("utf-8", "surrogateescape")
# CAP_NET_RAW+ep as the kernel stores it: revision 2, effective, permitted bit 13.
CAP_NET_RAW = b"\x01\x00\x00\x02\x00\x20\x00\x00" + b"\x00" * 12


def odd_below(out) -> None:
    """The lower layer: one of everything."""
    with _writer(out) as tar:
        for path in ("odd", "odd/opaque", "odd/whited", "odd/deep", "odd/sticky"):
            _add(tar, path, tarfile.DIRTYPE, mode=0o1777 if path.endswith("sticky") else 0o755)
        _file(tar, "odd/opaque/hidden", b"an opaque directory above hides this\n")
        _file(tar, "odd/whited/gone", b"a whiteout above removes this\n")
        _file(tar, "odd/whited/stays", b"stays\n")
        _file(tar, "odd/setuid", b"#!/bin/sh\n", mode=0o6755, uid=4_000_000_000, gid=65534)
        _file(tar, "odd/empty", b"")
        _file(tar, "odd/" + LONG_NAME, b"long name\n")
        _file(tar, "odd/" + NOT_UTF8, b"name is not UTF-8\n")
        _file(tar, "odd/linked", b"three names, one inode\n" * 500)
        for name in ("odd/link-a", "odd/deep/link-b"):
            _add(tar, name, tarfile.LNKTYPE, linkname="odd/linked")
        _add(tar, "odd/symlink", tarfile.SYMTYPE, linkname="../" * 30 + "etc/passwd")
        _add(tar, "odd/long-symlink", tarfile.SYMTYPE, linkname="/".join(["x" * 200] * 18))
        _add(tar, "odd/null", tarfile.CHRTYPE, devmajor=1, devminor=3)
        _add(tar, "odd/disk", tarfile.BLKTYPE, devmajor=259, devminor=1_000_000)
        _add(tar, "odd/fifo", tarfile.FIFOTYPE)
        _file(tar, "odd/capability", b"\x7fELF", pax={"SCHILY.xattr.security.capability": CAP_NET_RAW.decode("utf-8", "surrogateescape")})
        _file(tar, "odd/xattrs", b"x", pax={f"SCHILY.xattr.user.key{i}": "v" * (i * 17) for i in range(20)})
        _file(tar, "odd/nanoseconds", b"x", pax={"mtime": "1234567890.123456789"})
        _file(tar, "odd/before-1970", b"x", mtime=-86400)
        deep = "odd/deep"
        for level in range(60):
            deep += f"/level-{level:02}"
            _add(tar, deep, tarfile.DIRTYPE, mode=0o755)
        _file(tar, deep + "/bottom", b"deep\n")
    _sparse(out)


def odd_above(out) -> None:
    """The upper layer: whiteouts, an opaque directory, a kind change, a link across layers."""
    with _writer(out) as tar:
        _add(tar, "odd/opaque", tarfile.DIRTYPE, mode=0o755)
        _file(tar, "odd/opaque/.wh..wh..opq", b"")
        _file(tar, "odd/opaque/new", b"only this is left\n")
        _file(tar, "odd/whited/.wh.gone", b"")
        _add(tar, "odd/empty", tarfile.DIRTYPE, mode=0o700)
        _add(tar, "odd/link-across-layers", tarfile.LNKTYPE, linkname="odd/linked")
    _end(out)


def small_files(out, count: int, seed: int, bytes_max: int = 8192) -> None:
    """`count` files of up to `bytes_max`, 250 to a directory; contents differ but compress like text."""
    rng = random.Random(seed)
    words = [f"{rng.getrandbits(40):x}".encode() for _ in range(4096)]
    with _writer(out) as tar:
        for number in range(count):
            folder = f"tree/{number // 5000:03}/{number // 250 % 20:02}"
            if number % 5000 == 0:
                _add(tar, folder.rsplit("/", 1)[0], tarfile.DIRTYPE, mode=0o755)
            if number % 250 == 0:
                _add(tar, folder, tarfile.DIRTYPE, mode=0o755)
            size = int(rng.random() ** 2 * bytes_max)
            body = b" ".join(rng.choices(words, k=size // 10 + 1))[:size]
            _file(tar, f"{folder}/file-{number:06}", body)
    _end(out)


def big_file(out, mebibytes: int, seed: int) -> None:
    """One file of mixed, half-compressible content."""
    rng = random.Random(seed)
    with _writer(out) as tar:
        block = b"".join(rng.randbytes(2048) + bytes(2048) for _ in range(256))
        info = _info("big", tarfile.REGTYPE, mode=0o644)
        info.size = mebibytes << 20
        tar.addfile(info, _Repeat([bytes([n % 251]) + block[1:] for n in range(mebibytes)]))
    _end(out)


def random_files(out, folder: str, count: int, mebibytes: int, seed: int) -> None:
    """Files that nothing makes smaller, in a folder of their own."""
    rng = random.Random(seed)
    with _writer(out) as tar:
        tar.addfile(_info(folder, tarfile.DIRTYPE, mode=0o755))
        for number in range(count):
            info = _info(f"{folder}/{number:03}", tarfile.REGTYPE, mode=0o644)
            info.size = mebibytes << 20
            tar.addfile(info, _Repeat(rng.randbytes(1 << 20) for _ in range(mebibytes)))
    _end(out)


class _Repeat(io.RawIOBase):
    def __init__(self, blocks):
        self.buffer, self.blocks = b"", iter(blocks)

    def read(self, size=-1):
        while len(self.buffer) < size:
            self.buffer += next(self.blocks)
        piece, self.buffer = self.buffer[:size], self.buffer[size:]
        return piece


def _writer(out):
    # Stream mode would pad and close; the end of archive is written by `_end`.
    tar = tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, encoding="utf-8", errors="surrogateescape", bufsize=1 << 20)
    return _Unended(tar)


class _Unended:
    """Closes a stream tar without its end marker, so that raw members may follow."""

    def __init__(self, tar):
        self.tar = tar

    def __enter__(self):
        return self.tar

    def __exit__(self, *error):
        if error[0] is None:
            stream = self.tar.fileobj
            stream.fileobj.write(stream.buf)
            stream.buf = b""
            stream.closed = True


def _end(out) -> None:
    out.write(bytes(1024))


def _info(path, kind, mode=0o644, uid=0, gid=0, mtime=EPOCH, linkname="", devmajor=0, devminor=0, pax=None):
    info = tarfile.TarInfo(path)
    info.type, info.mode, info.uid, info.gid, info.mtime = kind, mode, uid, gid, mtime
    info.linkname, info.devmajor, info.devminor = linkname, devmajor, devminor
    info.pax_headers = pax or {}
    return info


def _add(tar, path, kind, **fields) -> None:
    tar.addfile(_info(path, kind, **fields))


def _file(tar, path, body: bytes, **fields) -> None:
    info = _info(path, tarfile.REGTYPE, **fields)
    info.size = len(body)
    tar.addfile(info, io.BytesIO(body))


def _sparse(out) -> None:
    """A GNU 1.0 sparse file (64 MiB, two data runs) and a FIFO with empty device fields.

    tarfile writes neither; some builders leave the device fields of a FIFO as NUL bytes, and
    nydus-image refuses such a layer.
    """
    size, runs = 64 << 20, [(0, 4096), (32 << 20, 8192), (64 << 20, 0)]
    table = "".join(f"{n}\n" for n in [len(runs), *(n for run in runs for n in run)]).encode()
    body = table.ljust(512, b"\0") + b"".join(b"s" * length for _, length in runs)
    info = _info("odd/GNUSparseFile.0/sparse", tarfile.REGTYPE, pax={
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "odd/sparse", "GNU.sparse.realsize": str(size)})
    info.size = len(body)
    out.write(info.tobuf(tarfile.PAX_FORMAT) + body + bytes(-len(body) % 512))
    header = bytearray(_info("odd/fifo-bare", tarfile.FIFOTYPE).tobuf(tarfile.USTAR_FORMAT))
    header[329:345] = bytes(16)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    out.write(bytes(header))
    _end(out)
