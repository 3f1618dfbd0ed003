"""Uses the published client `afs-sdk` as its documentation says, and prints what it saw as JSON. Run by `test_afs_sdk`.

afs_client.py HOST PORT IMAGE
"""

import asyncio
import json
import sys

from afs_sdk import AfsClient, ExecuteInput, ExtraDirectory, ExtraFile, ExtraSymlink, ReconcileImageInput

SCRIPT = "cd /work && cat in/bytes in/stream link && echo $NAME && echo oops >&2 && mkdir out && printf made > out/file && ln -s file out/sym"


async def stream():
    for number in range(50):
        yield b"%05d\n" % number * 1000


def shown(event):
    """An event by its class and its fields."""
    fields = {name: getattr(event, name) for name in getattr(event, "__dataclass_fields__", {})}
    return {
        "event": type(event).__name__,
        **{name: value.hex() if isinstance(value, bytes) else value for name, value in fields.items()},
    }


async def execute(client, image, script, **options):
    """All events of a run, or the status that it failed with."""
    events = []
    request = {"image": image, "command": ["sh", "-c", script], "timeout_ms": 20_000, **options}
    try:
        async for event in client.execute(ExecuteInput(**request)):
            events.append(shown(event))
    except Exception as error:
        events.append(
            {"error": type(error).__name__, "status": getattr(getattr(error, "status", None), "name", ""), "message": str(error)}
        )
    return events


async def main(host, port, image):
    entries = [
        ExtraDirectory(path="work", mode=0o755),
        ExtraFile(path="work/in/bytes", content=b"bytes\n"),
        ExtraFile(path="/work/in/stream", content=stream(), mode=0o600),
        ExtraSymlink(path="work/link", target="in/bytes"),
    ]
    saw = {}
    async with AfsClient(host, int(port)) as client:
        saw["run"] = await execute(client, image, SCRIPT, extra_entries=entries, env={"NAME": "value"})
        saw["failing"] = await execute(client, image, "exit 3", extra_entries=[ExtraDirectory(path="work")])
        saw["late"] = await execute(client, image, "sleep 30", timeout_ms=500, extra_entries=[ExtraDirectory(path="work")])
        # It needs a thread of the event loop's pool for each diff that it takes apart, and waits for ever when there is none.
        many = (execute(client, image, f"echo {n}", extra_entries=[ExtraDirectory(path="work")]) for n in range(3))
        saw["many"] = await asyncio.gather(*many)
        saw["missing"] = await execute(client, f"{image}-is-not-there", "true")
        saw["runtime"] = shown(await client.get_runtime_status())
        try:
            saw["status"] = [shown(event) async for event in client.status()]
        except Exception as error:
            saw["status"] = [{"event": getattr(getattr(error, "status", None), "name", str(error))}]
        try:
            saw["reconcile"] = shown(await client.reconcile_image(ReconcileImageInput(image=image, replica=1)))
        except Exception as error:
            saw["reconcile"] = {"error": type(error).__name__, "status": getattr(getattr(error, "status", None), "name", "")}
    print(json.dumps(saw, default=str))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
