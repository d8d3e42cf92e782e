"""Does the PyTorch backend of a ptychography reconstruction do the same science as the TensorFlow backend?

The public names are in ``__init__.pyi``: each is imported when it is first used (Scientific Python's SPEC 1). None of
them loads a framework: the dispatcher imports the backend that a configuration names, when it is called.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
