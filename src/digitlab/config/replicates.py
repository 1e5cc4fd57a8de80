"""Which settings only repeat a run by chance; sweeps, searches and halving average over them."""

# Runs that differ in these keys alone are replicates of one setting. Folds and split seeds belong to them: which images
# validate is chance, so choosing the fold with the best value would choose the easiest images, not the best setting.
REPLICATE_KEYS = ("seed", "data.fold", "data.split_seed")
