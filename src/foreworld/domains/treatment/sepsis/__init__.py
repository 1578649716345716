"""Sepsis in intensive care: fluids and vasopressors on the benchmark ICU-Sepsis, learned from logged treatments."""
