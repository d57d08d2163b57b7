"""Bad input: hostile files, messages, arguments and calls, each of which must be accepted or refused in plain words."""
