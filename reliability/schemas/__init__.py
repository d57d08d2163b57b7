"""Schemas that nobody designed, drawn from a seed, and moved while they are written to."""
