"""`helm test` runs a program out of a volume."""

from e2e import release
from e2e.story import Story


def run(it: Story) -> None:
    said = release.helm(it.cluster, "test", release.RELEASE, "--timeout", "4m", "--logs")
    it.check("Succeeded" in said, said)
    it.check("lamina " in said, f"no version in {said!r}")
