"""The report: one self-contained HTML page about a run, or about many. It reads run folders and writes nothing else.

``records`` reads, ``charts``, ``confusion`` and ``pictures`` make the parts, ``page`` puts them together with the
templates; ``digitlab report`` is the command.
"""
