"""The mover: carries a plan out, wave by wave. Start reading at ``run.py``."""
