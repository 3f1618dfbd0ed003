"""Forty bad objects are refused by the API server, each with the text that helps."""

import re

from e2e.cluster import ClusterError
from e2e.release import REPOSITORY
from e2e.story import Story

FOLDER = REPOSITORY / "crds/tests/bad"


def run(it: Story) -> None:
    tried, wrong = 0, []
    for path in sorted(FOLDER.glob("*.yaml")):
        for number, (expected, text) in enumerate(objects(path.read_text()), 1):
            tried += 1
            said = refusal(it, text)
            if said is None:
                wrong.append(f"{path.name} #{number} was accepted")
            elif expected not in said:
                wrong.append(f"{path.name} #{number}: expected {expected!r} in {said!r}")
    it.check(tried >= 40, f"only {tried} objects in {FOLDER}")
    it.check(not wrong, "\n".join(wrong))
    it.say(f"{tried} objects")


def objects(text: str) -> list[tuple[str, str]]:
    """What the answer must hold, and the object."""
    found = []
    for part in re.split(r"^---\s*$", text, flags=re.MULTILINE):
        if expected := re.search(r"^# expect: (.*)$", part, re.MULTILINE):
            found.append((expected[1].strip(), part))
    return found


def refusal(it: Story, text: str) -> str | None:
    try:
        it.kubectl("create", "--dry-run=server", "-f", "-", text=text)
    except ClusterError as error:
        return str(error)
    return None
