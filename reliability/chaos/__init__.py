"""Chaos: the real engine, real servers and real processes, broken in every way we know while users write."""
