"""Files, errors, signals, memory, ranks and exit codes. All other packages use them; ``core`` imports none of these."""
