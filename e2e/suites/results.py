"""Ginkgo's reports as a list of specs."""

import dataclasses
import json
import pathlib
import re


@dataclasses.dataclass(frozen=True)
class Spec:
    """One spec, and how it ended: passed, failed or skipped."""

    text: str
    state: str
    # Why it was skipped or how it failed.
    why: str
    seconds: float


def read(reports: list[pathlib.Path]) -> list[Spec]:
    """The specs of reports that were run, sorted by text; what a focus left out is in none."""
    return sorted({one.text: one for path in reports for report in json.loads(path.read_text())
                   for one in _specs(report)}.values(), key=lambda one: one.text)


def _specs(report: dict) -> list[Spec]:
    found = []
    for one in report["SpecReports"] or []:
        why = (one.get("Failure") or {}).get("Message", "")
        state = one["State"] if one["State"] in ("passed", "skipped", "pending") else "failed"
        # A spec that a focus or skip left out has no message; what is not a spec counts when it failed.
        if state == "pending" or (state == "skipped" and not why) or (state != "failed" and one["LeafNodeType"] != "It"):
            continue
        text = " ".join([*(one["ContainerHierarchyTexts"] or []), one["LeafNodeText"] or one["LeafNodeType"]])
        found.append(Spec(_short(text), state, why.strip(), round(one["RunTime"] / 1e9, 1)))
    return found


def _short(text: str) -> str:
    """Without what all have in common."""
    return re.sub(r"^External Storage (\[Driver: [^\]]*\] ?)?", "", text)
