"""A server that speaks TLS and notes what it is told by those who take its certificate."""

from __future__ import annotations

import socket
import ssl
import threading
from pathlib import Path

CERTIFICATES = Path(__file__).parent / "certificates"  # good for a hundred years, for nobody else
AUTHORITY = CERTIFICATES / "authority.pem"  # who signed the two
HERE, ELSEWHERE = CERTIFICATES / "here.pem", CERTIFICATES / "elsewhere.pem"  # localhost; another
# Of localhost, signed by themselves; the second says that it is an authority, as openssl has it.
ALONE, ALONE_CA = CERTIFICATES / "alone.pem", CERTIFICATES / "alone-ca.pem"


class TlsServer:
    """Shows a certificate to whoever connects, and answers nothing. heard: what came after that."""

    def __init__(self, certificate: Path) -> None:
        self.heard = b""
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            try:
                connection.settimeout(2)
                with self._context.wrap_socket(connection, server_side=True) as secret:
                    self.heard += secret.recv(4096)
            except OSError:
                connection.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)
