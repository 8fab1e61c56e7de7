"""TRPO for JAX: pure functions of an immutable `TrainState`, compiled to one program.

The public names are listed in `__init__.pyi`. Each is imported on first use, so
`import trpo_jax` is cheap and loads no environment suite.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
