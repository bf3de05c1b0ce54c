"""A small S3 client of its own, signed with version 4: it shares no code with litesnap or its library."""
import datetime, hashlib, hmac, http.client, urllib.parse, xml.etree.ElementTree as ElementTree

from servers.driver import REGION, check

UNRESERVED = "-_.~"
TIMEOUT_S = 120


def quote(text, keep=""):
    return urllib.parse.quote(text, safe=UNRESERVED + keep)


def sign(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def strip_namespace(tree):
    for element in tree.iter():
        element.tag = element.tag.rpartition("}")[2]
    return tree


class S3:
    """One account at one server. Requests are made one by one, each on a connection of its own."""

    def __init__(self, port, access, secret, service="s3"):
        self.port, self.access, self.secret, self.service = port, access, secret, service

    def authorization(self, method, path, query, headers):
        """The header that signs the request; every given header is signed."""
        amz_date = headers["x-amz-date"]
        names = sorted(headers)
        signed = ";".join(names)
        canonical = "\n".join((method, path, query, *(f"{name}:{headers[name]}" for name in names), "", signed,
                               headers["x-amz-content-sha256"]))
        scope = f"{amz_date[:8]}/{REGION}/{self.service}/aws4_request"
        to_sign = "\n".join(("AWS4-HMAC-SHA256", amz_date, scope, hashlib.sha256(canonical.encode()).hexdigest()))
        key = ("AWS4" + self.secret).encode()
        for step in scope.split("/"):
            key = sign(key, step)
        signature = sign(key, to_sign).hex()
        return f"AWS4-HMAC-SHA256 Credential={self.access}/{scope}, SignedHeaders={signed}, Signature={signature}"

    def send(self, method, path, query=None, body=b"", headers=None):
        """Status, headers and body of the answer. `path` begins with the bucket and is not encoded yet."""
        path = quote("/" + path, "/")
        query = "&".join(f"{quote(name)}={quote(str(value))}" for name, value in sorted((query or {}).items()))
        now = datetime.datetime.now(datetime.timezone.utc)
        all_headers = {"host": f"127.0.0.1:{self.port}", "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ"),
                       "x-amz-content-sha256": hashlib.sha256(body).hexdigest()} | (headers or {})
        all_headers["authorization"] = self.authorization(method, path, query, all_headers)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path + (f"?{query}" if query else ""), body or None, all_headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def ask(self, method, path, query=None, body=b"", headers=None):
        """The same, where anything but success is a failure of the test."""
        status, got, answer = self.send(method, path, query, body, headers)
        check(status // 100 == 2, f"{method} {path} by another client: HTTP {status}: {answer[:300]!r}")
        return got, answer

    def make_bucket(self, bucket):
        self.ask("PUT", bucket)

    def get(self, bucket, key):
        return self.ask("GET", f"{bucket}/{key}")[1]

    def range_status(self, bucket, key, range):
        """With what status a part of an object comes."""
        return self.send("GET", f"{bucket}/{key}", headers={"range": f"bytes={range}"})[0]

    def put_if_absent(self, bucket, key, body):
        """Whether a create-only put was taken."""
        return self.send("PUT", f"{bucket}/{key}", body=body, headers={"if-none-match": "*"})[0] == 200

    def pages(self, bucket, prefix):
        query = {"list-type": 2, "prefix": prefix}
        while True:
            page = strip_namespace(ElementTree.fromstring(self.ask("GET", bucket, query)[1]))
            yield page
            if page.findtext("IsTruncated") != "true":
                return
            query["continuation-token"] = page.findtext("NextContinuationToken")

    def objects(self, bucket, prefix=""):
        """Key and size of everything below the prefix."""
        return {one.findtext("Key"): int(one.findtext("Size"))
                for page in self.pages(bucket, prefix) for one in page.iter("Contents")}

    def etag(self, bucket, key):
        return self.ask("HEAD", f"{bucket}/{key}")[0]["ETag"].strip('"')

    def uploads(self, bucket, prefix):
        """(key, id) of multipart uploads that nobody has completed; None if the server cannot tell."""
        status, _, answer = self.send("GET", bucket, {"uploads": ""})
        if status != 200:
            return None
        tree = strip_namespace(ElementTree.fromstring(answer))
        found = [(one.findtext("Key"), one.findtext("UploadId")) for one in tree.iter("Upload")]
        return [(key, id) for key, id in found if key.startswith(prefix)]

    def parts(self, bucket, key, upload):
        """How many parts of an upload the server holds."""
        status, _, answer = self.send("GET", f"{bucket}/{key}", {"uploadId": upload})
        return answer.count(b"<PartNumber>") if status == 200 else 0

    def abort(self, bucket, key, upload):
        self.ask("DELETE", f"{bucket}/{key}", {"uploadId": upload})
