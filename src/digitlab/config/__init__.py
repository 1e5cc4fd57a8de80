"""Composing and checking the configuration: the schema of settings, override errors, and fingerprints of runs."""
