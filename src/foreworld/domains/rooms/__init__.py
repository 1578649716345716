"""Rooms: a scene learned from video alone, and goals reached in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from foreworld.evidence.domain import Domain


def domain() -> Domain:
    """This domain, for `foreworld.evidence.domain.load_domain`; parts are imported when it is asked for."""
    import torch

    from foreworld.domains.rooms.protocols import PROTOCOLS
    from foreworld.domains.rooms.scene import RoomsConfig
    from foreworld.domains.rooms.source import schema_of
    from foreworld.domains.rooms.task import STANDARD, GoTo
    from foreworld.evidence.domain import Domain

    return Domain(
        name="rooms",
        schema=schema_of(RoomsConfig()),
        task=GoTo(torch.zeros(1, 1, 1)),
        rules=(),
        profiles={"standard": STANDARD},
        protocols={name.split("/", 1)[1]: protocol for name, protocol in PROTOCOLS.items()},
        description="Rooms seen by a camera: world models from video, for research on them.",
    )
