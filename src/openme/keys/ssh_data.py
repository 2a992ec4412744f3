"""SSH's own way to write data (RFC 4251 section 5): numbers of four bytes, strings behind their length."""

NUMBER_SIZE = 4
ED25519 = "ssh-ed25519"
ED25519_CERTIFICATE = "ssh-ed25519-cert-v01@openssh.com"


class BadSshDataError(ValueError):
    """Bytes that are not what they should be. The message is for the user, and repeats none of them."""


def number(value: int) -> bytes:
    """A uint32."""
    return value.to_bytes(NUMBER_SIZE, "big")


def string(content: bytes) -> bytes:
    """A string: its length, then what it is."""
    return number(len(content)) + content


class Reader:
    """Takes a stranger's bytes apart, from the first on. Each method raises BadSshDataError for what is too short."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def bytes_untrusted(self, size: int) -> bytes:
        """The next `size` bytes."""
        end = self._at + size
        if end > len(self._data):
            raise BadSshDataError("it ends too early")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def number_untrusted(self) -> int:
        """A uint32."""
        return int.from_bytes(self.bytes_untrusted(NUMBER_SIZE), "big")

    def string_untrusted(self) -> bytes:
        """What a string holds."""
        return self.bytes_untrusted(self.number_untrusted())

    def end_untrusted(self) -> None:
        """See that nothing follows."""
        if self._at != len(self._data):
            raise BadSshDataError("something follows its end")


def kind_untrusted(blob: bytes) -> str:
    """The type that a public key as SSH writes it begins with, `ssh-ed25519` for one. BadSshDataError."""
    kind = Reader(blob).string_untrusted()
    if not kind.isascii():
        raise BadSshDataError("a key without a type")
    return kind.decode("ascii")


def called(kind: str) -> str:
    """A type of key in words, with its article."""
    if kind.startswith("sk-"):
        return "a FIDO key"
    if kind.endswith("-cert-v01@openssh.com"):
        return "a certificate"
    if kind.startswith("ecdsa-"):
        return "an ECDSA key"
    return {"ssh-rsa": "an RSA key", "ssh-dss": "a DSA key", ED25519: "an Ed25519 key"}.get(kind, "of another type")
