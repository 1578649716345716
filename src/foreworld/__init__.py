"""foreworld: world models that plan inside guardrails. Research software, not a medical device."""

__version__ = "0.1.0"
