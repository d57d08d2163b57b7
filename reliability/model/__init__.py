"""The handover and its recovery explored state by state: `python -m reliability.model`."""
