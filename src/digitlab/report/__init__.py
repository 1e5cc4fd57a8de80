"""The HTML report: one self-contained page about one run or about many. ``digitlab report`` writes it.

``gather`` collects the runs and writes the page. ``records`` reads run folders; ``charts``, ``confusion``, ``images``,
``pictures``, ``tables`` and ``sweep_analysis`` make the parts; ``page`` fills the templates.
"""
