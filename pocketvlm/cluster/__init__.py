"""Evaluations, searches and phones on several machines, by Ray: `pocketvlm eval | tune | bench --cluster ADDRESS`.

Of a run the way is: ``units`` (what is done as a whole, and what became of it) -> ``nodes`` (which machines there are)
-> ``checks`` (that they fit) -> ``work`` (units to machines, again elsewhere where one failed) -> ``answers``,
``trials`` or ``phones`` (what a unit is, there and here). ``host`` makes this machine one of a cluster.
"""
