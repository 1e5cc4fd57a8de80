"""Run folders: their layout, their writer and their readers. Training writes them; all other packages only read them.

Nothing in this package depends on Lightning's Trainer.
"""
