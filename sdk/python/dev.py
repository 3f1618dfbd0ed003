#!/usr/bin/env python3
"""What developers of the Python client need, in an environment of its own that is cached by version.

dev.py generate     messages from proto/, the blocking twin from the asyncio source
dev.py lint         ruff, mypy and pyright, all strict
dev.py test [NAME]  the tests (unittest's names)
dev.py python ARG…  the environment's Python
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
REQUIREMENTS = HERE / "dev-requirements.txt"
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "lamina" / "python-sdk"


def python(requirements: pathlib.Path = REQUIREMENTS) -> str:
    """The interpreter of an environment with these packages; made when there is none, by one process at a time."""
    version = ".".join(map(str, sys.version_info[:3]))
    key = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    home = CACHE / f"{version}-{key}"
    program, whole = home / "bin" / "python", home / "whole"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{home.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole.exists():
            print(f"making {home}", file=sys.stderr)
            subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
            subprocess.run([program, "-m", "pip", "install", "--quiet", "--only-binary", ":all:", "-r", requirements], check=True)
            whole.touch()
    return str(program)


def run(*command: str | pathlib.Path, quiet: bool = False) -> int:
    """A command's exit status, run here with the client importable."""
    environment = {**os.environ, "PYTHONPATH": str(HERE / "src"), "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1", "GRPC_VERBOSITY": "NONE"}
    said = subprocess.DEVNULL if quiet else None
    return subprocess.run(command, cwd=HERE, env=environment, stdout=said, check=False).returncode


def lint() -> int:
    """0 when nothing is to be said."""
    program = python()
    checks = [
        ["ruff", "check", "--quiet", "."],
        ["ruff", "format", "--check", "--quiet", "."],
        ["mypy", "--no-error-summary"],
        ["pyright", "--pythonpath", program],
    ]
    return max(run(program, "-m", *check) for check in checks)


def main(words: list[str]) -> int:
    """Does what the first word says."""
    match words:
        case ["generate"]:
            return run(python(), "tools/generate.py")
        case ["lint"]:
            return lint()
        case ["test", *names]:
            chosen = names or ["discover", "-t", ".", "-s", "tests"]
            return run(python(), "-W", "error::DeprecationWarning:lamina", "-m", "unittest", *chosen)
        case ["live", *names]:
            return run(python(), "-m", "unittest", "-v", *([f"tests.live.Live.{name}" for name in names] or ["tests.live"]))
        case ["python", *rest]:
            return run(python(), *rest)
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
