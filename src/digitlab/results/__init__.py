"""Run folders: their layout, their writer, their readers. Training writes them; everything else reads finished runs.

Nothing in this package knows a Lightning Trainer.
"""
