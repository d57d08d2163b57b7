"""The control database: phase, status and figures of every move, readable with SQL. No personal value is in
it."""
