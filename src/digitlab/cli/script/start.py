"""Runs ``digitlab train`` as a script. Under DDP, Lightning starts the other processes of a run with it."""

from digitlab.cli.train import run

if __name__ == "__main__":
    run()
