"""Names the keys that only change the random draws of a run. Sweeps, searches and halving average over them."""

# Runs that differ only in these keys are replicates of one setting, a combination of values of all other keys. The fold
# and the split seed choose the validation images. If a search chose the best of them, it would choose the easiest
# images and not the best setting.
REPLICATE_KEYS = ("seed", "data.fold", "data.split_seed")
