"""In a namespace of the Pod Security Standard `restricted`, an ordinary user's pod uses a volume."""

from e2e.story import Story, pod


def run(it: Story) -> None:
    it.kubectl("label", "namespace", it.namespace, "pod-security.kubernetes.io/enforce=restricted")
    it.apply(pod("restricted", {"lamina.dev/image": it.images["base"]}, script="id -u; cat /data/etc/debian_version", restricted=True))
    said = it.finished("restricted").split()
    it.check(said[0] == "1000" and len(said) == 2, f"the pod said {said}")
