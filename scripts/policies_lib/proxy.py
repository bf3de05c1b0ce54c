"""A server in between that passes everything on: it writes down what is asked, or loses an answer."""
import socket, threading, urllib.parse


class Between:
    """Forwards connections to `endpoint`, and keeps the first lines of each request, in small letters but for the first."""

    def __init__(self, endpoint):
        self.target = urllib.parse.urlsplit(endpoint)
        self.heads, self.lock = [], threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def __enter__(self):
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.listener.close()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client):
        with client, socket.create_connection((self.target.hostname, self.target.port)) as server:
            back = threading.Thread(target=self.answer, args=(server, client), daemon=True)
            asked = b""
            back.start()
            try:
                while piece := client.recv(1 << 16):
                    asked = self.note(asked + piece)
                    server.sendall(piece)
                server.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            back.join()

    def note(self, asked):
        """Takes whole heads out of what was sent so far; what is left is the beginning of another, or some body."""
        while b"\r\n\r\n" in asked:
            head, _, asked = asked.partition(b"\r\n\r\n")
            verb = max((head.rfind(word) for word in (b"PUT /", b"POST /", b"GET /", b"DELETE /")), default=-1)
            if verb >= 0:
                first, _, rest = head[verb:].decode("latin-1").partition("\r\n")
                with self.lock:
                    self.heads.append(first + "\n" + rest.replace("\r\n", "\n").lower())
        # A head has a few thousand bytes at most.
        return asked[-8192:]

    def answer(self, server, client):
        try:
            while piece := server.recv(1 << 16):
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            pass


class LosesFirstAnswer(Between):
    """The first answer to a request of kind `verb` is read, and not passed on."""

    def __init__(self, endpoint, verb):
        super().__init__(endpoint)
        self.verb, self.lost = verb, 0

    def answer(self, server, client):
        first = server.recv(1 << 16)
        with self.lock:
            # By the time of the first byte of an answer the request was carried out, and its head is known.
            loses = not self.lost and bool(self.heads) and self.heads[0].startswith(self.verb)
            self.lost += loses
        if loses:
            client.shutdown(socket.SHUT_RDWR)
            return
        try:
            client.sendall(first)
        except OSError:
            return
        super().answer(server, client)
