"""References of container images: a name in the group's code bucket, or one in a registry."""

from __future__ import annotations

from typing import Final

# Nodes keep what they loaded from code buckets under this name, which no registry has.
LOCAL_REGISTRY: Final = "bridge.invalid"


def registry_of(image: str) -> str | None:
    """The host of a reference's registry, with its port; None for a name of the group's own.

    As Docker sees it: the part before the first slash, where it looks like a host.
    """
    first, slash, _ = image.partition("/")
    is_host = slash and (first == "localhost" or "." in first or ":" in first)
    return first if is_host else None


def image_on_node(image: str) -> str:
    """What an image runs under on a node: a reference with a registry as it is, a name of
    the group's own as stage names it there.
    """
    return image if registry_of(image) else f"{LOCAL_REGISTRY}/{image}"
