"""What the published client `afs-sdk` must see, whoever serves it."""

import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import dev  # noqa: E402

SECONDS = 120


def saw(address: str, image: str) -> dict:
    """What it saw. Installs it, into an environment of its own in the cache."""
    python = dev.python(HERE / "afs-requirements.txt")
    command = [python, str(HERE / "afs_client.py"), *address.split(":"), image]
    said = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if said.returncode:
        raise AssertionError(said.stderr)
    return json.loads(said.stdout)


def check(test, seen: dict) -> None:
    """Runs, failures and statuses, as a program of somebody else's sees them."""
    kinds = [event.get("event", event) for event in seen["run"]]
    test.assertEqual((kinds[0], kinds[-1]), ("AcceptedEvent", "DoneEvent"), kinds)
    test.assertLess(kinds.index("LogEvent"), kinds.index("ResultEvent"))
    test.assertLess(kinds.index("ResultEvent"), kinds.index("TarArchiveStart"))
    stream = "".join(f"{number:05d}\n" * 1000 for number in range(50))
    test.assertTrue(logs(seen["run"], "stdout") == f"bytes\n{stream}bytes\nvalue\n", "standard output")
    test.assertEqual(logs(seen["run"], "stderr"), "oops\n")
    result = next(event for event in seen["run"] if event["event"] == "ResultEvent")
    test.assertEqual((result["success"], result["exit_code"], result["error"]), (True, 0, ""))
    made = [event for event in seen["run"] if event["event"] == "TarFilePart" and event["path"].endswith("work/out/file")]
    test.assertEqual(b"".join(bytes.fromhex(part["data"]) for part in made), b"made")
    links = {event["path"]: event["target"] for event in seen["run"] if event["event"] == "TarSymlink"}
    test.assertEqual(links.get("work/out/sym"), "file")

    result = next(event for event in seen["failing"] if event["event"] == "ResultEvent")
    test.assertEqual((result["success"], result["exit_code"]), (False, 3))
    test.assertEqual(seen["failing"][-1], {"event": "DoneEvent"})
    result = next(event for event in seen["late"] if event["event"] == "ResultEvent")
    test.assertEqual((result["success"], result["exit_code"]), (False, 137))
    test.assertTrue(result["error"])
    test.assertEqual(seen["late"][-1], {"event": "DoneEvent"})
    test.assertEqual([logs(events, "stdout") for events in seen["many"]], [f"{number}\n" for number in range(3)])

    test.assertEqual([seen["missing"][-1]["error"], seen["missing"][-1]["status"]], ["GRPCError", "NOT_FOUND"])
    test.assertEqual(len(seen["missing"]), 1, "nothing came before")
    test.assertEqual(seen["runtime"]["event"], "RuntimeStatus")
    test.assertGreaterEqual(seen["runtime"]["limit_cpu_cores"], 1)


def check_proxy(test, seen: dict) -> None:
    """What only a proxy has."""
    kinds = [event["event"] for event in seen["status"]]
    test.assertEqual(kinds[0], "ProxyStatusSummary")
    test.assertIn("ProxyAfsletInstance", kinds)
    summary = seen["status"][0]
    test.assertEqual((summary["afslet_instances"], summary["afslet_reachable"]), (1, 1))


def logs(events: list, source: str) -> str:
    return "".join(event["message"] for event in events if event.get("event") == "LogEvent" and event["source"] == source)
