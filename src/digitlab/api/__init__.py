"""What Python users and ``train.py`` call before a run starts: checks, automatic resuming, and folder names."""
