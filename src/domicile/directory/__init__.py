"""Who lives where, at which epoch. Only this package changes a home. Subjects appear as keyed hashes."""
