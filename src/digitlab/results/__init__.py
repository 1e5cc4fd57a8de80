"""What a run leaves behind: its folder, who writes it, and how it is read again.

A run folder is the interface between training and everything that looks at finished runs. Nothing here knows a Trainer.
"""
