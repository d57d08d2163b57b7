"""Evidence: an append-only log of what a move did, bundles of it, and their verification. Pure: no database, no
network, no file, no clock.

The formats are public ones: RFC 6962 trees, C2SP signed notes, checkpoints, cosignatures and ``tlog-proof`` files, DSSE
envelopes, in-toto statements. ``docs/reference/evidence.md`` has them to the byte."""
