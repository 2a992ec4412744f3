"""A page behind TLS on the loopback addresses, with an authority of its own; how it behaves is a function.

authority = Authority(tmp_path)
with page(authority.certificate("localhost"), says(b"203.0.113.5")) as url:
    ...  # a client that trusts authority.file
"""

import contextlib
import secrets
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from support.clock import Clock
from support.ports import free_port

Answer = Callable[[ssl.SSLSocket, threading.Event], None]
"""What the page does with a connection whose request has been read; the event ends it."""


@dataclass(frozen=True)
class Certificate:
    """Files with a certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates. `file` is its own certificate, for whoever shall trust it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        own = self._key("authority")
        self.file = own.certificate
        _openssl(
            *("req", "-x509", "-key", own.key, "-out", own.certificate, "-subj", "/CN=test authority", "-days", "2"),
            *("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"),
        )
        self._own = own

    def certificate(self, *names: str, days: int = 2, clock: Clock | None = None) -> Certificate:
        """For these names and addresses, without any for both loopback ones; with `days=0` it has ended already.

        `clock`: by which it is made, in place of this machine's.
        """
        made = self._key(secrets.token_hex(4))
        request = made.key.with_suffix(".csr")
        extensions = made.key.with_suffix(".ext")
        alternatives = ",".join(_alternative(name) for name in names or ("127.0.0.1", "::1"))
        extensions.write_text(f"subjectAltName={alternatives}\n")
        _openssl("req", "-new", "-key", made.key, "-out", request, "-subj", "/CN=page")
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self._own.certificate, "-CAkey", self._own.key),
            *("-CAcreateserial", "-days", days, "-extfile", extensions, "-out", made.certificate),
            prefix=[] if clock is None else clock.prefix,
        )
        return made

    def _key(self, name: str) -> Certificate:
        made = Certificate(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", made.key)
        return made


def _alternative(name: str) -> str:
    try:
        return f"IP:{ip_address(name)}"
    except ValueError:
        return f"DNS:{name}"


def _openssl(*words: object, prefix: Sequence[str] = ()) -> None:
    done = subprocess.run([*prefix, "openssl", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@contextmanager
def page(
    certificate: Certificate | None,
    answer: Answer,
    host: str = "127.0.0.1",
    *,
    port: int | None = None,
    asked: list[bytes] | None = None,
) -> Iterator[str]:
    """The URL of a page that behaves so; without a certificate `answer` gets the bare connection, nothing read.

    `asked` collects the requests.
    """
    version = socket.AF_INET6 if ":" in host else socket.AF_INET
    over = threading.Event()
    port = port or free_port()
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(20)
            if certificate is None:
                answer(connection, over)  # type: ignore[arg-type]  # it takes a bare one here
                return
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.certificate, certificate.key)
            with context.wrap_socket(connection, server_side=True) as tls:
                request = b""
                while not request.endswith(b"\r\n\r\n") and (more := tls.recv(4096)):
                    request += more
                if asked is not None:
                    asked.append(request)
                answer(tls, over)

    def accept() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            thread = threading.Thread(target=serve, args=(connection,))
            threads.append(thread)
            thread.start()

    with socket.create_server((host, port), family=version) as listening:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"https://{f'[{host}]' if ':' in host else host}:{port}/"
        finally:
            over.set()
            listening.shutdown(socket.SHUT_RDWR)
            for thread in (accepting, *threads):
                thread.join(20)
                assert not thread.is_alive()


def http(body: bytes, status: str = "200 OK", *headers: str, length: int | None = None) -> bytes:
    """An HTTP answer that tells its length."""
    head = (f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers, "", "")
    return "\r\n".join(head).encode() + body


def says(raw: bytes, *, orderly: bool = True) -> Answer:
    """Sends these bytes and ends TLS, or cuts the connection without TLS's own word for the end."""

    def answer(connection: ssl.SSLSocket, _over: threading.Event) -> None:
        connection.sendall(raw)
        if orderly:
            connection.unwrap()

    return answer


def drips(raw: bytes, every: float = 0.05) -> Answer:
    """Sends one byte after the other."""

    def answer(connection: ssl.SSLSocket, over: threading.Event) -> None:
        for byte in raw:
            connection.sendall(bytes([byte]))
            if over.wait(every):
                return

    return answer


def hangs(_connection: object, over: threading.Event) -> None:
    """Says nothing until it is over."""
    over.wait(30)
