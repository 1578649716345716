"""The protocols of this domain: what `foreworld evaluate treatment/...` runs."""

from __future__ import annotations

from foreworld.domains.treatment import forecast_protocol, guardrail_protocol, sabotage_protocol
from foreworld.domains.treatment.error_growth.protocol import error_growth
from foreworld.domains.treatment.personalisation.protocol import protocol as personalisation
from foreworld.domains.treatment.sepsis.protocol import protocol as sepsis
from foreworld.domains.treatment.track_protocol import protocol_of
from foreworld.domains.treatment.tracks import TRACKS
from foreworld.domains.treatment.tumour_benchmark.protocol import tumour
from foreworld.evidence.protocol import Protocol

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        *(protocol_of(track) for track in TRACKS),
        *guardrail_protocol.protocols(),
        sabotage_protocol.protocol(),
        personalisation(),
        *forecast_protocol.protocols(),
        error_growth(),
        sepsis(),
        tumour(),
    )
}
