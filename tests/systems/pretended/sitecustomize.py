"""Makes digitlab believe that it runs on Windows or macOS. Python imports this module at every start if it finds it.

``DIGITLAB_TEST_SYSTEM`` names the system, or is ``nameless`` for a user id without a name. Modules and functions that
the system lacks disappear: for all code where other libraries know how to do without them, and for digitlab alone where
they do not. ``sys.platform`` changes for ``core/`` only, because the installed libraries are those of Linux.
"""

import builtins
import ctypes
import errno
import importlib.abc
import importlib.util
import os
import pathlib
import signal
import sys

SYSTEM = os.environ.get("DIGITLAB_TEST_SYSTEM", "")
_MISSING_MODULES = {"win32": {"fcntl", "grp", "posix", "pwd", "resource", "termios"}, "darwin": set()}
_MISSING_IN_OS = {
    "win32": ("fork", "forkpty", "sched_getaffinity"),
    "darwin": ("sched_getaffinity",),
}
_MISSING_IN_SIGNAL = {"win32": ("SIGUSR2", "pthread_sigmask"), "darwin": ()}


class _Sys:
    """``sys`` with another platform."""

    platform = SYSTEM

    def __getattr__(self, name):
        return getattr(sys, name)

    def __setattr__(self, name, value):
        setattr(sys, name, value)


class _Core(importlib.abc.MetaPathFinder):
    """Gives each module of ``core/`` the other ``sys`` before its code runs."""

    def find_spec(self, name, path, target=None):
        if not name.startswith("digitlab.core."):
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            if getattr(module, "sys", None) is sys:
                module.sys = _Sys()

        spec.loader.exec_module = exec_module
        return spec


def _by_digitlab():
    """Whether the function that calls the caller of this one belongs to digitlab."""
    return sys._getframe(2).f_globals.get("__name__", "").partition(".")[0] in ("digitlab", "hydra_plugins")


def _without_modules(missing):
    real = builtins.__import__

    def import_(name, globals=None, locals=None, fromlist=(), level=0):
        importer = (globals or {}).get("__name__", "").partition(".")[0]
        if name in missing and importer in ("digitlab", "hydra_plugins"):
            raise ModuleNotFoundError(f"No module named {name!r} on this system", name=name)
        return real(name, globals, locals, fromlist, level)

    builtins.__import__ = import_


def _without_folders_as_files():
    """Windows opens no folders."""
    real = os.open

    def open_(path, *arguments, **options):
        if _by_digitlab() and os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, *arguments, **options)

    os.open = open_


def _without_sysconf():
    """Windows has no ``os.sysconf``. psutil, as it is on Linux, needs it."""
    real = os.sysconf

    def sysconf(name):
        if _by_digitlab():
            raise AttributeError("module 'os' has no attribute 'sysconf'")
        return real(name)

    os.sysconf = sysconf


def _without_proc():
    """Only Linux has /proc."""
    real = pathlib.Path.read_text

    def read_text(self, *arguments, **options):
        if self.is_relative_to("/proc"):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(self))
        return real(self, *arguments, **options)

    pathlib.Path.read_text = read_text


def _without_libc(answer):
    real = ctypes.CDLL

    def cdll(name, *arguments, **options):
        if _by_digitlab():
            answer(name)
        return real(name, *arguments, **options)

    ctypes.CDLL = cdll


def _windows_cdll(name):
    if name is None:
        raise TypeError("argument of type 'NoneType' is not iterable")
    raise FileNotFoundError(name)


def _pretend():
    sys.meta_path.insert(0, _Core())
    _without_modules(_MISSING_MODULES[SYSTEM])
    _without_proc()
    for module, names in ((os, _MISSING_IN_OS[SYSTEM]), (signal, _MISSING_IN_SIGNAL[SYSTEM])):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    if SYSTEM == "win32":
        _without_folders_as_files()
        _without_sysconf()
        _without_libc(_windows_cdll)


def _without_name():
    """The user id has no name, as in many containers."""
    import pwd

    def getpwuid(number):
        raise KeyError(f"getpwuid(): uid not found: {number}")

    pwd.getpwuid = getpwuid


if SYSTEM == "nameless":
    _without_name()
elif SYSTEM:
    _pretend()
