"""Steps between the command line and a run: the check before a run, ``resume=auto``, and the names of folders."""
