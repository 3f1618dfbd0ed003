"""python3 -m bench.corpus all | list | quick | NAME[:TAG]...: builds and stores images."""

import sys

from . import images, registry


def main(names: list[str]) -> int:
    """Builds the images named, and pushes them to the cached registry."""
    if not names or names == ["list"]:
        for image in images.ALL:
            state = "built" if image.file.exists() else "-"
            print(f"{image.name}:{image.tag:3} {state:6} {'heavy' if image.heavy else ''}")
        return 0
    if names in (["all"], ["quick"]):
        chosen = [image for image in images.ALL if names == ["all"] or not image.heavy]
    else:
        chosen = [images.find(name) for name in names]
    with registry.serve() as address:
        for image in chosen:
            print(f"{image.name}:{image.tag}", flush=True)
            registry.push(address, image)
            size = sum(layer.size for layer in images.build(image))
            print(f"  {len(image.recipes)} layers, {size / 1e6:.1f} MB compressed", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
