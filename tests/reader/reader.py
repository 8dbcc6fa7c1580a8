"""Opens records of format 1, written from FORMAT.md alone and sharing no code with the crate.

Reads cases in the form of golden files on standard input, each followed by an empty line. Writes a line for each to
standard output: the value in hex after `value `, or `refused`. Exits with 77 if the package `cryptography` is missing.
"""

import hmac
import sys

try:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
except ImportError:
    sys.exit(77)

PURPOSES = {"agent-secret": 1, "provider-credential": 2, "agent-copy": 3, "token-copy": 4}
COPIES = {"agent-copy", "token-copy"}
SCOPES = {"platform": 0, "session": 1, "agent": 2}
MODES = {"live", "test"}


class Refused(Exception):
    pass


def u32(number):
    return number.to_bytes(4, "big")


def field(data):
    return u32(len(data)) + data


def hkdf(salt, ikm, info):
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(ikm)


def platform_key(root_key, salt, platform, root_version, key_version):
    parts = [b"theazo/vault/v1/platform-key", platform, u32(root_version), u32(key_version)]
    return hkdf(salt, root_key, b"".join(map(field, parts)))


def token_key(token, platform):
    return hkdf(bytes(32), token, field(b"theazo/vault/v1/token-key") + field(platform))


def context(case, root_version, key_version):
    assert case["mode"] in MODES
    scope, _, owner = case["scope"].partition(" ")
    assert (scope == "platform") == (owner == "")
    if (scope == "agent") != (case["purpose"] in COPIES):
        raise Refused("purpose")
    expiry = case["expires_at_ms"]
    fields = [
        case["deployment"].encode(),
        case["platform"].encode(),
        case["mode"].encode(),
        bytes([SCOPES[scope]]) + owner.encode(),
        case["name"].encode(),
        int(case["version"]).to_bytes(8, "big"),
        b"" if expiry == "none" else int(expiry).to_bytes(8, "big", signed=True),
        bytes([(case["mask"] == "true") | (case["inherit"] == "true") << 1]),
        u32(root_version),
        u32(key_version),
    ]
    start = b"THZO" + bytes([1, 1, PURPOSES[case["purpose"]]]) + u32(len(fields))
    return start + b"".join(map(field, fields))


def record_keys(case, key, salt, ctx):
    labels = [f"theazo/vault/v1/{case['purpose']}/{what}" for what in ("record-key", "commitment")]
    return [hkdf(salt, key, field(label.encode()) + ctx) for label in labels]


def unpad(text):
    value = text.rstrip(b"\x00")
    if not value.endswith(b"\x80") or len(text) - len(value) > 63 or len(value) - 1 > 32768:
        raise Refused("padding")
    return value[:-1]


def open_record(case, record):
    if record[:2] != b"\x01\x01":
        raise Refused("format or suite")
    if not 166 <= len(record) <= 32934 or (len(record) - 102) % 64:
        raise Refused("length")
    versions = [int.from_bytes(record[at : at + 4], "big") for at in (2, 6)]
    if versions != [int(case["root_version"]), int(case["platform_key_version"])]:
        raise Refused("key version")
    salt, nonce, commitment, text = record[10:42], record[42:54], record[54:86], record[86:]
    if ("token" in case) != (case["purpose"] == "token-copy"):
        raise Refused("purpose")
    if "token" in case:
        key = token_key(case["token"].encode(), case["platform"].encode())
    else:
        root, platform_salt = bytes.fromhex(case["root_key"]), bytes.fromhex(case["platform_salt"])
        key = platform_key(root, platform_salt, case["platform"].encode(), *versions)
    ctx = context(case, *versions)
    record_key, expected = record_keys(case, key, salt, ctx)
    if not hmac.compare_digest(commitment, expected):
        raise Refused("commitment")
    return unpad(AESGCM(record_key).decrypt(nonce, text, ctx))


def parse(lines):
    pairs = (line.partition(" = ") for line in lines if line and not line.startswith("#"))
    return {key: value for key, _, value in pairs}


def answer(case):
    try:
        return "value " + open_record(case, bytes.fromhex(case["record"])).hex()
    except (Refused, InvalidTag):
        return "refused"


if __name__ == "__main__":
    for text in sys.stdin.read().split("\n\n"):
        if text:
            print(answer(parse(text.split("\n"))))
