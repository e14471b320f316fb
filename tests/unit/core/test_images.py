from __future__ import annotations

import pytest

from bridge.core.images import Images
from bridge.models.image import registry_of

DIGEST = "@sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("image", "host"),
    [
        ("psi4:1.5", None),
        ("lab/psi4:1.5", None),
        ("ghcr.io/lab/psi4:1.5", "ghcr.io"),
        ("registry:5000/psi4:1.5", "registry:5000"),
        ("localhost/psi4:1.5", "localhost"),
        ("registry.example/psi4" + DIGEST, "registry.example"),
    ],
)
def test_the_host_of_a_registry(image: str, host: str | None) -> None:
    assert registry_of(image) == host


@pytest.mark.parametrize("registries", [(), ("ghcr.io",), ("*",)])
def test_images_of_the_group_are_always_fine(registries: tuple[str, ...]) -> None:
    assert Images(registries).refusal("psi4:1.5") is None
    assert Images(registries).refusal("lab/psi4:1.5") is None


@pytest.mark.parametrize(
    ("registries", "image", "refused"),
    [
        ((), "ghcr.io/lab/psi4:1.5", True),
        (("ghcr.io",), "ghcr.io/lab/psi4:1.5", False),
        (("ghcr.io",), "ghcr.io.evil.example/lab/psi4:1.5", True),
        (("registry.example",), "registry.example:5000/psi4:1.5", True),
        (("registry.example:5000",), "registry.example:5000/psi4" + DIGEST, False),
        (("GHCR.io",), "ghcr.io/lab/psi4:1.5", False),
        (("*",), "anything.example/psi4:1.5", False),
        # What other groups' jobs left on a machine.
        (("*",), "bridge.invalid/psi4:1.5", True),
        (("bridge.invalid",), "bridge.invalid/psi4:1.5", True),
        (("*",), "bridge-selftest:1", True),
    ],
)
def test_registries(registries: tuple[str, ...], image: str, refused: bool) -> None:
    assert (Images(registries).refusal(image) is not None) is refused


def test_the_refusal_says_what_to_do() -> None:
    refusal = Images().refusal("ghcr.io/lab/psi4:1.5")
    assert refusal is not None
    assert "ghcr.io" in refusal.message
    assert "codes publish" in refusal.hint
    assert "images.registries" in refusal.hint
