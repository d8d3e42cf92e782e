"""The parity ladder: from single operators to trained science, each rung with a derived tolerance.

Each backend measures itself in a process of its own (`worker`), on inputs that NumPy made (`problems`); what it wrote
is judged here, with no framework loaded (`rungs`), and becomes a :class:`~ptyint.parity.results.Ladder`.
"""
