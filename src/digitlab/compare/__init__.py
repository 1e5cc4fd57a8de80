"""Statistics that say whether one setting is better than another; ``digitlab compare`` uses them."""
