"""Files, errors, signals, memory, ranks and exit codes: what every other package uses. It imports no other package."""
