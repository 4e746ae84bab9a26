"""Python reads this at start-up when its folder is on PYTHONPATH: tests and all that they start reach no other
machine, import fast, and meet a file system that notices late that it is full where $FULL_LATE names a file."""
import errno
import ipaddress
import os
import socket
import sys
from importlib.machinery import SourceFileLoader


def _checked(connect):
    "A socket's connect that refuses other machines; datagram sockets send nothing when they connect."
    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and self.type == socket.SOCK_STREAM and not _local(
            address[0]):
            raise ConnectionRefusedError(f"tests use no network, but something asked for {address[0]}:{address[1]}")
        return connect(self, address)
    return guarded


def _local(host):
    try: return ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError: return host == "localhost"


socket.socket.connect = _checked(socket.socket.connect)
socket.socket.connect_ex = _checked(socket.socket.connect_ex)


def _noticing_late(call, path):
    "A call that fails like one on a full quota, where its path holds the word that $FULL_LATE's file holds now."
    def late(*args, **how):
        word = os.path.exists(os.environ.get("FULL_LATE", "")) and open(os.environ["FULL_LATE"]).read()
        if word and word in str(path(*args)): raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return call(*args, **how)
    return late


os.fsync = _noticing_late(os.fsync, lambda fd: os.readlink(f"/proc/self/fd/{fd}"))
os.replace = _noticing_late(os.replace, lambda source, target: target)


def _execute(loader, module, real=SourceFileLoader.exec_module):
    "Execute an imported module; an installed one without coverage's tracer, which doubles the time."
    if "site-packages" not in loader.path or not (tracer := sys.gettrace()): return real(loader, module)
    sys.settrace(None)
    try: real(loader, module)
    finally: sys.settrace(tracer)


SourceFileLoader.exec_module = _execute
sys.modules.setdefault("rfc3987_syntax", None)  # a grammar that jsonschema compiles for three seconds; nothing needs it
