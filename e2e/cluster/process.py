"""Processes that were started and must be found again by a later command: by pid and start time, never by name."""

import json
import os
import pathlib
import signal
import time

from .plan import MARK


def started(pid: int) -> int | None:
    """When a process began, in ticks since boot; with its pid that names it for ever. None when it has ended."""
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *rest = text.rpartition(")")[2].split()
    return None if state in "ZX" else int(rest[18])


def record(folder: pathlib.Path, name: str, pid: int) -> None:
    """Notes a started process as `name`."""
    (folder / f"{name}.json").write_text(json.dumps({"pid": pid, "started": started(pid)}))


def recorded(folder: pathlib.Path, name: str) -> int | None:
    """The pid noted as `name`, if that process still runs."""
    try:
        note = json.loads((folder / f"{name}.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return note["pid"] if started(note["pid"]) == note["started"] is not None else None


def marked(state: pathlib.Path) -> list[int]:
    """Pids of all processes that carry the mark of the cluster in `state`: also those nobody came to note."""
    mark = f"{MARK}={state}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                environment = pathlib.Path(f"/proc/{entry}/environ").read_bytes()
            except OSError:
                continue
            if mark in environment.split(b"\0"):
                found.append(int(entry))
    return found


def first_child(pid: int) -> int | None:
    """The only child of `pid`: the first process of the namespace it made."""
    try:
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(children[0]) if children else None


def kill(pids: list[int], seconds: float) -> list[int]:
    """SIGKILL to processes; those that have not ended within `seconds`."""
    ids = {pid: started(pid) for pid in pids}
    for pid in ids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    deadline = time.monotonic() + seconds
    while left := [pid for pid, when in ids.items() if when is not None and started(pid) == when]:
        if time.monotonic() > deadline:
            return left
        time.sleep(0.05)
    return []
