"""The Python interface, such as ``digitlab.train`` and ``Run``, and the steps between the command line and a run."""
