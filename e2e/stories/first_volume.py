"""The pod of the chart's notes, pasted as it is, reads an image that nobody pulled."""

import re

from e2e import release
from e2e.story import Story


def run(it: Story) -> None:
    pasted = re.search(r"<<'EOF'\n(.*?)\nEOF\n", release.notes(it.cluster), re.DOTALL)
    it.check(pasted is not None, "the notes hold no pod to paste")
    it.apply(pasted[1])
    said = it.finished("first-volume")
    it.check({"etc", "usr"} <= set(said.split()), f"the pod listed {said!r}")
    it.wait("an event on the pod says what was mounted", lambda: mounted(it), 60)
    it.say(mounted(it)[0])


def mounted(it: Story) -> list[str]:
    return [text for text in it.events("Pod", "first-volume") if text.startswith("MountedLamina")]
