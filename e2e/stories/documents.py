"""Every object in docs/kubernetes.md is one the API server takes."""

import re

from e2e.release import REPOSITORY
from e2e.story import Story


def run(it: Story) -> None:
    page = (REPOSITORY / "docs/kubernetes.md").read_text()
    blocks = re.findall(r"^```yaml\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    it.check(len(blocks) >= 4, f"only {len(blocks)} blocks were found")
    for block in blocks:
        it.kubectl("create", "--dry-run=server", "-f", "-", text=block)
    it.say(f"{len(blocks)} blocks")
