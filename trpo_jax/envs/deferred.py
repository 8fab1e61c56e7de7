"""Import a package without the plotting libraries that it imports but rarely uses."""

import contextlib
import importlib
import sys
import types


class _Deferred(types.ModuleType):
    """Stands in for a module until one of its attributes is read."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def deferred(*names: str):
    """Within this context, `import name` binds a stand-in that imports the module on first use.

    Modules already imported are left alone. gymnax imports seaborn and pyplot for pictures that
    training never draws; they take three quarters of the two seconds of its import.
    """
    stand_ins = {name: _Deferred(name) for name in names if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, stand_in in stand_ins.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]
