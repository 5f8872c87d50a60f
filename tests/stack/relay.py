"""A line that breaks when it is told to."""

import contextlib
import socket
import threading


class Relay:
    """Stands between a client and a port; breaks off after so many bytes of the client's."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.cut_after: int | None = None
        #: And breaks off only when this is set, passing nothing on until then.
        self.patience = threading.Event()
        self.patience.set()
        #: How much of the client's was passed on.
        self.passed = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            client, _ = self._server.accept()
            if self._server.fileno() < 0 or self.port < 0:
                client.close()
                return
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client, self._connect() as server:
            back = threading.Thread(target=self._back, args=(server, client), daemon=True)
            back.start()
            left = self.cut_after
            with contextlib.suppress(OSError):
                while data := client.recv(65536 if left is None else min(left, 65536)):
                    server.sendall(data)
                    self.passed += len(data)
                    if left is not None and not (left := left - len(data)):
                        self.patience.wait(60)
                        break
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_WR)

    def _connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port))

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.port = -1
        with contextlib.suppress(OSError):
            socket.create_connection(self._server.getsockname()).close()
        self._thread.join(10)
        self._server.close()
