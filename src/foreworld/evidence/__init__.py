"""How well something works: one shape of evidence, its statistics and its reports."""
