"""Every backend inside Ptychodus: ``ptyint-ptychodus`` is its own command line with the library `ptyint` in it.

``command`` starts the application, ``application`` hooks into it, ``library`` holds the reconstructors and their
settings; ``child`` does the work, ``model_file`` keeps what a backend's own workflow saves. Ptychodus' process imports
the first three and never a framework; the child imports one backend and never Ptychodus.
"""
