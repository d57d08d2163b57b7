"""Floor 1: the PostgreSQL servers that domicile runs itself, for demos, tests and the control database."""
