"""Floor 1: everything that talks to one PostgreSQL; no module here knows two sites."""
