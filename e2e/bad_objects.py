"""Asks an API server about every object in crds/tests/bad/ and checks what it answers.

    python3 -m e2e.bad_objects --kubeconfig FILE

Each YAML document there begins with `# expect: TEXT`: the answer to a server-side dry run must contain TEXT.
"""

import argparse
import pathlib
import subprocess
import sys
from collections.abc import Iterator

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "crds" / "tests" / "bad"
MARK = "# expect: "


def documents(folder: pathlib.Path = FOLDER) -> Iterator[tuple[str, str, str]]:
    """Where each document is, what its answer must contain, and the document."""
    for path in sorted(folder.glob("*.yaml")):
        for number, text in enumerate(path.read_text().split("---\n")[1:], 1):
            first, _ = text.split("\n", 1)
            assert first.startswith(MARK), f"{path.name} {number}: no `{MARK}`"
            yield f"{path.name} {number}", first.removeprefix(MARK), text


def answer(kubectl: list[str], document: str) -> tuple[bool, str]:
    """Whether the API server takes the document, and what it says."""
    command = [*kubectl, "create", "--dry-run=server", "--validate=strict", "-f", "-"]
    done = subprocess.run(command, input=document, capture_output=True, text=True, timeout=60)
    return done.returncode == 0, done.stdout + done.stderr


def main() -> int:
    """Checks all of them; the exit code says whether each was refused as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubeconfig", required=True)
    parser.add_argument("--kubectl", default="kubectl")
    given = parser.parse_args()
    kubectl = [given.kubectl, "--kubeconfig", given.kubeconfig]
    wrong = 0
    for where, expected, document in documents():
        taken, said = answer(kubectl, document)
        if taken or expected not in said:
            wrong += 1
            print(f"FAIL {where}: expected {expected!r}\n  {said.strip()}")
        else:
            print(f"ok   {where}: {said.strip().splitlines()[-1][:160]}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
