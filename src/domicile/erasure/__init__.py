"""What is on a server's disk: files of a data directory, read as PostgreSQL wrote them, searched for known values."""
