"""Calibrated futures, and how far they may be trusted."""
