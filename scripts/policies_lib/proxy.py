"""A server in between that passes everything on, and loses one answer."""
import socket, threading, urllib.parse


class LosesFirstAnswer:
    """Forwards connections to `endpoint`; the first answer to a request of kind `verb` is read, and not passed on."""

    def __init__(self, endpoint, verb):
        self.target = urllib.parse.urlsplit(endpoint)
        self.verb, self.lost = verb.encode() + b" ", 0
        self.lock = threading.Lock()
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
            begun = client.recv(1 << 16)
            with self.lock:
                loses = begun.startswith(self.verb) and not self.lost
                self.lost += loses
            server.sendall(begun)
            back = threading.Thread(target=self.answer, args=(server, client, loses), daemon=True)
            back.start()
            self.pass_on(client, server)
            back.join()

    def answer(self, server, client, loses):
        if loses:
            # Its first byte comes when the request was carried out.
            server.recv(1 << 16)
            client.shutdown(socket.SHUT_RDWR)
        else:
            self.pass_on(server, client)
            client.close()

    @staticmethod
    def pass_on(source, target):
        try:
            while piece := source.recv(1 << 16):
                target.sendall(piece)
        except OSError:
            pass
        try:
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass
