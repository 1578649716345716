"""Planners: each searches in its own way, and all honour every guardrail."""
