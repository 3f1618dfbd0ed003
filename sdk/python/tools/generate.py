#!/usr/bin/env python3
"""Makes what is generated, or with a directory as argument makes it there, for the test that compares.

`_wire`: descriptors and stubs for type checkers, by protoc of grpcio-tools. `_sync`, and the tests of it: the asyncio
source with its keywords taken away, line by line, so that both twins say the same in the same order.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
import tempfile

from grpc_tools import protoc

HERE = pathlib.Path(__file__).resolve().parents[1]
PROTO = HERE.parents[1] / "proto"
CONTRACTS = {
    "afslet_pb2": "afslet/v1/afslet.proto",
    "afsproxy_pb2": "afsproxy/v1/afsproxy.proto",
    "node_pb2": "lamina/v1/node.proto",
}
HEAD = "# Made by `dev.py generate` from {}; do not edit.\n"

# In this order, on every line, in comments too.
TWIN = [
    (r"\basync (def|for|with)\b", r"\1"),
    (r"\bawait ", ""),
    (r"_io\.Opening\[(\w+)\]", r"\1"),
    (r"_io\.opening\((.*)\)$", r"\1"),
    (r"\bAsyncGenerator\[(.+), None\]", r"Generator[\1, None, None]"),
    (r"\bAwaitable, ", ""),
    (r"\bAwaitable\[(\w+)\]", r"\1"),
    (r"\bAsync(?=[A-Z])", ""),
    (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
    (r"\banext\b", "next"),
    (r"\baclose\b", "close"),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    (r"\b_aio\b", "_threads"),
    (r"\b_async\b", "_sync"),
    (r"\basyncSetUp\b", "setUp"),
    (r"\basyncTearDown\b", "tearDown"),
    (r"\bIsolatedAsyncioTestCase\b", "TestCase"),
]


SCRIPT = re.compile(r"( *)async def \w+\(stream: Stream")


def twin(text: str, source: str) -> str:
    """The blocking form of an asyncio source."""
    lines: list[str] = []
    # Scripts of the tests' server run on its own event loop in both twins: they are left as they are.
    script: str | None = None
    for line in text.splitlines():
        if script is not None and line.strip() and not line.startswith(script):
            script = None
        if found := SCRIPT.match(line):
            script = found[1] + " "
        for pattern, by in TWIN if script is None else ():
            line = re.sub(pattern, by, line)
        lines.append(line)
    joined = HEAD.format(source) + "\n".join(lines) + "\n"
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(HERE / "src/lamina/_sync/client.py"), "-"]
    return subprocess.run(command, input=joined, capture_output=True, text=True, check=True).stdout


def wire() -> dict[str, bytes]:
    """Files of `_wire` by name."""
    made: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as work:
        out = pathlib.Path(work)
        flags = [
            "--include_imports",
            f"--descriptor_set_out={out}/descriptors.binpb",
            f"--pyi_out={out}",
            f"--proto_path={PROTO}",
        ]
        if protoc.main(["protoc", *flags, *CONTRACTS.values()]):
            sys.exit("protoc failed")
        made["descriptors.binpb"] = (out / "descriptors.binpb").read_bytes()
        for module, contract in CONTRACTS.items():
            stub = (out / contract).with_name(f"{module}.pyi").read_text()
            stub = re.sub(r"^from lamina\.v1 import ", "from . import ", stub, flags=re.MULTILINE)
            made[f"{module}.pyi"] = (HEAD.format(f"proto/{contract}") + stub).encode()
            made[f"{module}.py"] = (
                HEAD.format(f"proto/{contract}") + f'"""Messages of proto/{contract}."""\n\n'
                f'from . import define\n\ndefine(globals(), "{contract}")\n'
            ).encode()
    return made


def generate(into: pathlib.Path) -> None:
    """Writes everything below a directory that is laid out as this one."""
    package = into / "src" / "lamina"
    for name, content in wire().items():
        put(package / "_wire" / name, content)
    for source in sorted((HERE / "src/lamina/_async").glob("*.py")):
        put(package / "_sync" / source.name, twin(source.read_text(), f"_async/{source.name}").encode())
    for source in sorted((HERE / "tests").glob("test_async_*.py")):
        put(into / "tests" / source.name.replace("async", "sync"), twin(source.read_text(), source.name).encode())


def put(path: pathlib.Path, content: bytes) -> None:
    """Writes a file, with its directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


if __name__ == "__main__":
    generate(pathlib.Path(sys.argv[1]) if sys.argv[1:] else HERE)
