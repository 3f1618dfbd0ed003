"""docs/kubernetes-suites.md: what the external-storage suites found, for people."""

import re

from .results import Spec

HEAD = """\
# Upstream's storage suites

Written by the story `external_storage` (`E2E_DOCS=1 python3 -m e2e external_storage`, on the test cluster); do not edit.

These are the external-storage suites of Kubernetes {version} (`test/e2e/storage/external`), as `e2e.test` runs them, against
the chart on the test cluster. The suites are written for disks: they ask for volumes that start empty, keep what is written
and can be grown. A Lamina volume shows an image; with `mode: rw` each mount has changes of its own, which are
dropped with it. They are run with such volumes of a small image, inline and from a StorageClass.
"""
# What the suites say when they skip, and why that is so here.
REASONS = {
    r"block|volMode|volumeMode": "a volume is a directory; no block devices",
    r"snapshot": "the content never changes and has a digest: the digest is the snapshot",
    r"fsgroup": "files keep the owners that the image gives them; `fsGroup` is not applied",
    r"expan|resiz": "a volume is as large as what it shows",
    r"topology": "every node can use every volume",
    r"RWX|ReadWriteMany": "changes belong to one mount and are not shared",
    r"does not support volume type|does not support .*Volume$": "the suite makes such volumes only for other kinds of drivers, or is not for them",
    r"fs ?type|support (ext|xfs|ntfs)|windows": "there is nothing to format",
    r"data ?source|clon": "a copy shows what its origin shows; the suite looks for what it wrote to that, which ends with the mount",
    r"persist": "what is written is dropped with the mount",
    r"limit": "a node has no limit of volumes",
    r"capacity": "a volume takes no storage that could run out",
    r"VolumeAttributesClass|modif": "the content of a volume is what it is; another content is another volume",
    r"SELinux": "the test cluster has no SELinux",
    r"mount option": "the options a claim may have take rights away only; the suite checks them by what it wrote before",
    r"performance": "measured by `make bench-k8s`; the suite wants figures to compare with",
}


def text(found: list[Spec], version: str, left_out: dict[str, str]) -> str:
    """The page."""
    by_state = {state: [one for one in found if one.state == state] for state in ("passed", "failed", "skipped")}
    lines = [HEAD.format(version=version), ", ".join(f"{len(specs)} {state}" for state, specs in by_state.items()) + ".", ""]
    lines += ["## Passed", "", *(f"- {_shown(one.text)}" for one in by_state["passed"]), ""]
    if by_state["failed"]:
        lines += ["## Failed", "", *(f"- {_shown(one.text)}" for one in by_state["failed"]), ""]
    lines += ["## Left out", "", *(f"- `{pattern}`: {why}" for pattern, why in left_out.items()), ""] if left_out else []
    lines += ["## Skipped by the suites", "", "By what they said; how many; why it is so.", "", "| said | specs | |", "|---|---|---|"]
    for said, count in _said(by_state["skipped"]).items():
        lines.append(f"| {_shown(said)} | {count} | {reason(said)} |")
    return "\n".join([*lines, ""])


def reason(said: str) -> str:
    """Why a spec is not for this driver, from what the suites say."""
    return next((why for pattern, why in REASONS.items() if re.search(pattern, said, re.IGNORECASE)), "")


def _said(skipped: list[Spec]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for one in skipped:
        said = one.why.splitlines()[0]
        counted[said] = counted.get(said, 0) + 1
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))


def _shown(text: str) -> str:
    return text.replace("|", "\\|")
