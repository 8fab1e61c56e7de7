"""Import a package without the plotting libraries that it imports but seldom uses."""

import contextlib
import importlib
import sys
import types


class _Deferred(types.ModuleType):
    """Stands for a module until someone reads an attribute of it."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


@contextlib.contextmanager
def deferred(*names: str):
    """Inside, `import name` binds a stand-in that imports the real module on first use.

    Modules that are imported already stay as they are. gymnax imports seaborn and pyplot, for
    pictures that training never draws: three quarters of the two seconds that its import takes.
    """
    stand_ins = {name: _Deferred(name) for name in names if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, stand_in in stand_ins.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]
