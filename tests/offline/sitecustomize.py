"""Python reads this at start-up when its folder is on PYTHONPATH: tests and all that they start reach no other
machine."""
import ipaddress
import socket


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
