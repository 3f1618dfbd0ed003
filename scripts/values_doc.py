#!/usr/bin/env python3
"""Writes docs/values.md from the chart's values.schema.json and values.yaml."""

import dataclasses
import json
import pathlib

import yaml

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
CHART = REPOSITORY / "charts/lamina"
PAGE = REPOSITORY / "docs/values.md"
HEAD = """\
# Values of the chart

Generated from `charts/lamina/values.schema.json` by `scripts/values_doc.py`. Values that are not listed here, and
values of another kind, are refused. How to use them: [Kubernetes](kubernetes.md).
"""


@dataclasses.dataclass(frozen=True)
class Row:
    """One value of the chart."""

    path: str
    kind: str
    default: str
    description: str


def page() -> str:
    """The whole page."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    parts = [HEAD, _table(rows(_only(schema, lambda part: not _group(schema, part)), values))]
    for name, part in schema["properties"].items():
        if _group(schema, part):
            parts.append(f"## {name}\n\n{part['description']}\n")
            parts.append(_table(rows(_only(schema, lambda other, part=part: other is part), values)))
    return "\n".join(parts)


def rows(schema: dict, values: dict) -> list[Row]:
    """Every value with a description of its own, in the schema's order."""
    found = []
    for path, part in _walk(schema, schema, ""):
        found.append(Row(path, _kind(schema, part), _default(values, path), part.get("description", "")))
    return found


def paths(schema: dict) -> list[str]:
    """The paths of all values."""
    return [path for path, _ in _walk(schema, schema, "")]


def leaves(values: dict, under: str = "") -> list[str]:
    """The paths of defaults, where a map is one value if the schema has it as one."""
    found, known = [], set(paths(json.loads((CHART / "values.schema.json").read_text())))
    for name, value in values.items():
        path = f"{under}{name}"
        found += leaves(value, f"{path}.") if isinstance(value, dict) and path not in known else [path]
    return found


def _walk(schema: dict, part: dict, under: str):
    for name, below in part.get("properties", {}).items():
        if _group(schema, below):
            yield from _walk(schema, below, f"{under}{name}.")
        else:
            yield f"{under}{name}", below


def _group(schema: dict, part: dict) -> bool:
    """Whether a value is only a folder of others."""
    return "properties" in part


def _only(schema: dict, wanted) -> dict:
    return {**schema, "properties": {name: part for name, part in schema["properties"].items() if wanted(part)}}


def _kind(schema: dict, part: dict) -> str:
    if "$ref" in part:
        part = schema["$defs"][part["$ref"].rpartition("/")[2]]
    if "enum" in part:
        return ", ".join(f"`{value}`" for value in part["enum"])
    kind = part.get("type", "any")
    if kind == "integer" and "maximum" in part:
        return f"{part['minimum']} to {part['maximum']}"
    names = {"object": "map", "array": "list", "boolean": "true or false"}
    kinds = kind if isinstance(kind, list) else [kind]
    text = " or ".join(names.get(one, one) for one in kinds)
    below = part.get("items", {}).get("properties")
    return f"{text} of {{{', '.join(below)}}}" if below else text


def _default(values: dict, path: str) -> str:
    for name in path.split("."):
        if not isinstance(values, dict) or name not in values:
            return ""
        values = values[name]
    return f"`{json.dumps(values)}`"


def _table(found: list[Row]) -> str:
    lines = ["| value | kind | default | meaning |", "|---|---|---|---|"]
    for row in found:
        lines.append(f"| `{row.path}` | {row.kind} | {row.default} | {row.description} |".replace("  ", " "))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
