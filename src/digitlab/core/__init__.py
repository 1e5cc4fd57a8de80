"""Files, errors, signals, memory, ranks and exit codes. Every other package uses them; they import no other package."""
