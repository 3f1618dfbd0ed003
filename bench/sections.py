"""A page of sections that are measured apart: bench/results/PREFIX-*.json for programs, one page for people.

One result file a section and run; the page shows the newest of each section that did not fail.
"""

import dataclasses
import datetime
import json
import os
import pathlib

from .corpus.paths import REPOSITORY
from .report import line

RESULTS = REPOSITORY / "bench/results"


@dataclasses.dataclass
class Page:
    """Its files, and what is said around the tables."""

    prefix: str
    path: pathlib.Path
    head: list[str]
    # By section: its title, and how it is measured.
    titles: dict[str, str]
    how: dict[str, str]
    # Versions of what is measured against, kept with the results.
    versions: dict[str, str]

    def keep(self, bench, section: str, machine: dict, seconds: float, failed: str | None) -> pathlib.Path:
        """Writes the results of one section."""
        now = datetime.datetime.now(datetime.timezone.utc)
        result = {
            "date": now.isoformat(timespec="seconds"), "section": section, "quick": bench.quick, "seconds": round(seconds), "rounds": bench.rounds,
            "machine": machine, "versions": self.versions, "load_after": [round(load, 2) for load in os.getloadavg()], "failed": failed,
            "notes": bench.notes, "rows": [dataclasses.asdict(row) for row in bench.rows],
        }
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.prefix}-{section}-{now:%Y%m%d-%H%M%S}.json"
        path.write_text(json.dumps(result, indent=1, default=str) + "\n")
        return path

    def write(self) -> None:
        """Writes the page from what is kept."""
        self.path.write_text(self.text({section: found for section in self.titles if (found := self.newest(section))}))

    def newest(self, section: str) -> tuple[str, dict] | None:
        """The name and content of a section's result: the newest that did not fail, or else the newest."""
        results = [(path.name, json.loads(path.read_text())) for path in sorted(RESULTS.glob(f"{self.prefix}-{section}-*.json"))]
        return next((one for one in reversed(results) if not one[1]["failed"]), results[-1] if results else None)

    def text(self, results: dict[str, tuple[str, dict]]) -> str:
        """The page."""
        lines = [*self.head, ""]
        for section, (name, result) in results.items():
            about = result["machine"]
            lines += [f"## {self.titles[section]}", "", self.how[section], "", "| measure | result | target | | remarks |", "|---|---|---|---|---|"]
            lines += [line(row) for row in result["rows"]]
            versions = "".join(f", {name} {version}" for name, version in result["versions"].items())
            lines += ["", f"{result['date']}, commit {about['commit']}, {result['rounds']} rounds, {result['seconds']} s; {about['cpu']},"
                      f" {about['cores']} cores, {about['memory_gib']} GiB, Linux {about['kernel']}{versions}; load average {about['load'][0]} before,"
                      f" {result['load_after'][0]} after. Samples: `bench/results/{name}`.", ""]
            lines += [f"- {note}" for note in result["notes"]] + [""] * bool(result["notes"])
            if result["failed"]:
                lines += [f"The section failed: {result['failed']}", ""]
        return "\n".join(lines)
