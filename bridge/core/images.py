"""Which images jobs may ask for."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from bridge.errors import InvalidRequest
from bridge.models.image import LOCAL_REGISTRY, registry_of
from bridge.models.node import SELFTEST_NAME

ANY: Final = "*"


class Images:
    """The group's own images, and those of some registries; ``*`` means any registry."""

    def __init__(self, registries: Collection[str] = ()) -> None:
        self._registries = frozenset(host.lower() for host in registries)

    def refusal(self, image: str) -> InvalidRequest | None:
        """Why an image cannot be used, or None."""
        if image.startswith(SELFTEST_NAME):
            return InvalidRequest(
                f"The image {image} is a node's own, for its self-test.",
                "Publish yours under another name.",
            )
        host = registry_of(image)
        if host is None or (host != LOCAL_REGISTRY and self._registries & {host, ANY}):
            return None
        return InvalidRequest(
            f"This service takes no images from the registry {host}.",
            "Publish the image for your group (nomad-bridge codes publish NAME:VERSION), or ask "
            "the operator to add the registry to images.registries.",
        )
