"""Preference profiles: how a user weighs what is safe. A profile ranks feasible plans and cannot touch a guardrail."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Profile(BaseModel):
    """Named weights of an objective's terms.

    Attributes:
        name: Shown with every plan.
        weights: By term of the objective; at least 0. Terms left out keep weight 1.
        description: One line for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    weights: dict[str, float] = Field(default_factory=dict)
    description: str = ""

    @field_validator("weights")
    @classmethod
    def _not_negative(cls, weights: dict[str, float]) -> dict[str, float]:
        for term, weight in weights.items():
            if not 0.0 <= weight < float("inf"):
                raise ValueError(f"weight of {term} is {weight}; it must be finite and at least 0")
        return weights

    def weight(self, term: str) -> float:
        """The weight of a term."""
        return self.weights.get(term, 1.0)
