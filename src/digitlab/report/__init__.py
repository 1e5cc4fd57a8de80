"""The HTML report: one self-contained page about one run or about many. ``digitlab report`` writes it.

``records`` reads run folders; ``charts``, ``confusion``, ``images`` and ``pictures`` make the parts; ``page`` fills the
templates.
"""
