"""The protocols of this domain: what `foreworld evaluate treatment/...` runs."""

from __future__ import annotations

from foreworld.domains.treatment import forecast_protocol, guardrail_protocol, sabotage_protocol
from foreworld.domains.treatment.error_growth.protocol import error_growth
from foreworld.domains.treatment.personalisation.protocol import protocol as personalisation
from foreworld.domains.treatment.prepare import FULL
from foreworld.domains.treatment.prepared import GROUPS
from foreworld.domains.treatment.sepsis.protocol import protocol as sepsis
from foreworld.domains.treatment.track_protocol import protocol_of
from foreworld.domains.treatment.tracks import TRACKS
from foreworld.domains.treatment.tumour_benchmark.protocol import tumour
from foreworld.evidence.protocol import Protocol

PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        *(protocol_of(track) for track in TRACKS),
        Protocol(
            name="treatment/guardrails",
            version=1,
            description=(
                "Claimed risk of the guardrails against what plans chosen in closed loop really led to, carried out "
                "open-loop; unseen patients."
            ),
            settings=guardrail_protocol.SETTINGS | {"recipe": FULL.model_dump(mode="json")},
            arms=("foreworld",),
            metrics=guardrail_protocol.METRICS,
            run=guardrail_protocol.run,
            groups=GROUPS,
        ),
        sabotage_protocol.protocol(),
        personalisation(),
        *forecast_protocol.protocols(),
        error_growth(),
        sepsis(),
        tumour(),
    )
}
