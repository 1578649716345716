"""The agent: proposes, judges, acts, falls back and records; the last gate is `check`, the record is `audit`."""
