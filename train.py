"""Trains one network, or with -m a sweep of many. Usage:

python train.py model=mlp data=cifar10
python train.py -m optimizer.lr=0.1,0.01 model.dropout=0,0.2      (the same command again resumes the sweep)
python train.py resume=outputs/cifar10-mlp/2026-11-21_10-00-00_1a2b3c4d
python train.py model=mlp data=cifar10 resume=auto                (resumes its newest run, or starts one)
"""

import sys

try:
    from digitlab.cli.train import run
except ModuleNotFoundError as error:
    sys.exit(f"{sys.executable} has no {error.name}: run `make train`, or start .venv/bin/python train.py")
except KeyboardInterrupt:  # Ctrl-C in the first second
    sys.exit(130)

if __name__ == "__main__":
    run()
