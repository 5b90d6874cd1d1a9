#!/usr/bin/env python3
"""Reads every vector beside it with a second implementation of docs/format.md.

Written from that page alone. Needs `pip install cryptography`. Prints a count
and exits 0, or stops at the first vector that does not hold.
"""

import hashlib
import hmac
import json
import pathlib
import re
import struct
from datetime import datetime

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

HERE = pathlib.Path(__file__).parent
ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
JOB = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
HOUR = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}")
ARN = re.compile(rb"arn:[A-Za-z0-9-]+:kms:[A-Za-z0-9-]+:[A-Za-z0-9-]+:key/[A-Za-z0-9-]+")
MAX_PLAINTEXT = 1 << 20


class Refused(Exception):
    """Carries the code of the failure."""


def need(condition, code):
    if not condition:
        raise Refused(code)


def lp(x):
    return struct.pack(">H", len(x)) + x


def take(b, n, code):
    need(len(b) >= n, code)
    return b[:n], b[n:]


def take_lp(b, code):
    n, b = take(b, 2, code)
    return take(b, struct.unpack(">H", n)[0], code)


def epoch4(e):
    return bytes([e >> 21 & 0x7F, e >> 14 & 0x7F, e >> 7 & 0x7F, e & 0x7F])


def read_epoch(b, code):
    need(max(b) < 0x80, code)
    return b[0] << 21 | b[1] << 14 | b[2] << 7 | b[3]


def scope_bytes(context):
    pairs = sorted((k.encode(), v.encode()) for k, v in context.items())
    return bytes([len(pairs)]) + b"".join(lp(k) + lp(v) for k, v in pairs)


KINDS = {
    b"message": [b"channel", b"hour", b"kind", b"organization", b"workspace"],
    b"file": [b"file", b"kind", b"organization"],
    b"search": [b"kind", b"organization"],
    b"canary": [b"kind", b"organization"],
    b"set_aside": [b"channel", b"job", b"kind", b"organization"],
}


def is_hour(v):
    if not HOUR.fullmatch(v) or v < b"1970":
        return False
    try:
        datetime.strptime(v.decode(), "%Y-%m-%dT%H")
    except ValueError:
        return False
    return True


def read_scope(b):
    n, b = take(b, 1, "scope_length")
    pairs = []
    for _ in range(n[0]):
        k, b = take_lp(b, "scope_length")
        v, b = take_lp(b, "scope_length")
        try:
            k.decode(), v.decode()
        except UnicodeDecodeError:
            raise Refused("scope_not_utf8") from None
        need(not pairs or pairs[-1][0] < k, "scope_order")
        pairs.append((k, v))
    need(not b, "scope_length")
    values = dict(pairs)
    need(KINDS.get(values.get(b"kind")) == list(values), "scope_pairs")
    for k, v in pairs:
        grammar = {b"hour": is_hour, b"job": JOB.fullmatch}.get(k, ID.fullmatch)
        need(grammar(v), "scope_id")
    return {k.decode(): v.decode() for k, v in pairs}


def locus_bytes(place):
    parts = [b"message", place["organization"].encode(), place["channel"].encode()]
    parts.append(bytes.fromhex(place["record"]))
    return bytes([len(parts)]) + b"".join(map(lp, parts))


def mac(key, message):
    return hmac.new(key, message, hashlib.sha512).digest()


def derive(dek, scope):
    prk = mac(b"rekeyd.hkdf.v1", dek)

    def expand(label):  # one block of HKDF-Expand: 32 <= 64 bytes
        return mac(prk, lp(label) + lp(scope) + b"\x01")[:32]

    return prk, expand(b"rekeyd.commit.v1"), expand(b"rekeyd.cell-key.v1")


def aad_of(header, scope, place):
    return lp(b"rekeyd.cell.v1") + header + lp(scope) + lp(locus_bytes(place))


def seal(dek, scope, place, epoch, expiry, nonce, plaintext):
    _, commitment, cell_key = derive(dek, scope)
    header = epoch4(epoch) + b"\x01\x01" + commitment[:16] + struct.pack(">I", expiry or 0)
    sealed = AESGCM(cell_key).encrypt(nonce, plaintext, aad_of(header, scope, place))
    return header + nonce + sealed


def read_header(cell):
    need(len(cell) >= 54, "cell_too_short")
    epoch = read_epoch(cell[:4], "bad_epoch")
    need(cell[4] == 1, "unknown_version")
    need(cell[5] == 1, "unknown_suite")
    return epoch, cell[6:22], struct.unpack(">I", cell[22:26])[0]


def open_cell(dek, scope, place, cell):
    _, named, _ = read_header(cell)
    need(len(cell) - 54 <= MAX_PLAINTEXT, "plaintext_too_large")
    _, commitment, cell_key = derive(dek, scope)
    need(commitment[:16] == named, "key_id_mismatch")
    try:
        return AESGCM(cell_key).decrypt(cell[26:38], cell[38:], aad_of(cell[:26], scope, place))
    except InvalidTag:
        raise Refused("tag_mismatch") from None


def key_row_bytes(row):
    return (
        epoch4(row["wrap_epoch"]) + bytes([1, row["provider"]]) + bytes.fromhex(row["commitment"])
        + struct.pack(">Q", row["created_ms"]) + lp(row["cmk"].encode())
        + lp((row["key_material_id"] or "").encode()) + lp(scope_bytes(row["context"]))
        + lp(bytes.fromhex(row["wrapped"]))
    )


def read_key_row(b):
    short = "key_row_length"
    epoch, b = take(b, 4, short)
    epoch = read_epoch(epoch, "key_row_epoch")
    kind, b = take(b, 2, short)
    need(kind[0] == 1, "key_row_version")
    need(1 <= kind[1] <= 4, "key_row_provider")
    commitment, b = take(b, 32, short)
    created, b = take(b, 8, short)
    cmk, b = take_lp(b, short)
    need(len(cmk) <= 256 and ARN.fullmatch(cmk), "key_row_cmk")
    material, b = take_lp(b, short)
    try:
        material = material.decode()
    except UnicodeDecodeError:
        raise Refused("key_row_key_material") from None
    need(len(material.encode()) <= 256, "key_row_key_material")
    scope, b = take_lp(b, short)
    try:
        context = read_scope(scope)
    except Refused:
        raise Refused("key_row_scope") from None
    wrapped, b = take_lp(b, short)
    need(1 <= len(wrapped) <= 6144, "key_row_wrapped")
    need(not b, short)
    return {
        "wrap_epoch": epoch, "provider": kind[1], "commitment": commitment.hex(),
        "created_ms": struct.unpack(">Q", created)[0], "cmk": cmk.decode(),
        "key_material_id": material or None, "context": context, "wrapped": wrapped.hex(),
    }


def open_step_by_step(case):
    asked, registry, cell = case["asked"], case["registry"], bytes.fromhex(case["cell"])
    epoch, named, expiry = read_header(cell)
    if expiry and case["now_us"] >= expiry * 10**6:
        return None
    need(epoch >= registry["cell_floor"], "epoch_below_floor")
    need(epoch <= registry["newest"], "epoch_above_newest")
    found = [r for r in case["key_rows"] if r["key_id"] == named.hex()]
    need(found, "key_row_missing")
    for stored in sorted(found, key=lambda r: -r["wrap_epoch"]):
        try:
            row = read_key_row(bytes.fromhex(stored["row"]))
        except Refused:
            raise Refused("key_row_malformed") from None
        same_key = row["commitment"][:32] == named.hex()
        need(same_key and row["wrap_epoch"] == stored["wrap_epoch"], "key_row_misplaced")
        if row["cmk"] in registry["allowed"]:
            break
    else:
        raise Refused("cmk_not_allowed")
    need(row["wrap_epoch"] >= registry["wrap_floor"], "wrap_below_floor")
    context = row["context"]
    wanted = {k: asked[k] for k in ("organization", "channel", "hour")} | {"kind": "message"}
    need(wanted.items() <= context.items(), "scope_mismatch")
    need(context["workspace"] in registry["workspaces"], "scope_mismatch")
    dek, scope = bytes.fromhex(stored["unwrapped"]), scope_bytes(context)
    commitment = derive(dek, scope)[1]
    need(commitment.hex() == row["commitment"] and commitment[:16] == named, "commitment_mismatch")
    return open_cell(dek, scope, asked, cell)


def ttl_of(case):
    h, e = case["expiry"] * 10**6, case["epoch"]
    until, read = h + 5 * 10**6 * e, case["read"]
    if read:
        stored = read["answered_us"] + read["ttl_s"] * 10**6
        if stored > h + (5 * read["epoch"] + 5) * 10**6:
            until = max(until, stored + 5 * 10**6 * (e - read["epoch"]))
    ttl = -((case["now_us"] - until) // 10**6)
    return ttl if ttl > 0 else None


def new_expiry(case):
    latest = min(case["now_s"] + 315_576_000, 2_114_380_800)
    need(0 < case["expiry"] <= latest, "bad_expiry")


def check_cell(c):
    dek, scope, cell = bytes.fromhex(c["dek"]), scope_bytes(c["context"]), bytes.fromhex(c["cell"])
    nonce, plaintext = bytes.fromhex(c["nonce"]), bytes.fromhex(c["plaintext"])
    assert seal(dek, scope, c["locus"], c["epoch"], c["expiry"], nonce, plaintext) == cell
    assert aad_of(cell[:26], scope, c["locus"]).hex() == c["aad"]
    assert open_cell(dek, scope, c["locus"], cell) == plaintext


def check_key(k):
    prk, commitment, cell_key = derive(bytes.fromhex(k["dek"]), scope_bytes(k["context"]))
    assert (prk.hex(), commitment.hex(), cell_key.hex()) == (k["prk"], k["commitment"], k["cell_key"])
    assert commitment[:16].hex() == k["key_id"]


def check_key_row(r):
    row = bytes.fromhex(r["row"])
    assert key_row_bytes(r) == row
    fields = read_key_row(row)
    assert fields == {k: r[k] for k in fields} and r["commitment"][:32] == r["key_id"]


def check_epoch(e):
    assert epoch4(e["epoch"]).hex() == e["bytes"]
    assert read_epoch(bytes.fromhex(e["bytes"]), "") == e["epoch"]


def check_scope(s):
    assert scope_bytes(s["context"]).hex() == s["scope"]
    assert read_scope(bytes.fromhex(s["scope"])) == s["context"]


def check_open(c):
    opened = open_step_by_step(c)
    assert (opened.hex() if opened is not None else None) == c["plaintext"]


def check_ttl(c):
    assert ttl_of(c) == c["ttl_s"]


CHECKS = {
    ("epochs", "positive"): check_epoch,
    ("epochs", "negative"): lambda v: read_epoch(bytes.fromhex(v["bytes"]), "bad_epoch"),
    ("scopes", "positive"): check_scope,
    ("scopes", "negative"): lambda v: read_scope(bytes.fromhex(v["scope"])),
    ("keys", "positive"): check_key,
    ("cells", "positive"): check_cell,
    ("cells", "negative"): lambda v: open_cell(
        bytes.fromhex(v["dek"]), scope_bytes(v["context"]), v["locus"], bytes.fromhex(v["cell"])
    ),
    ("key_rows", "positive"): check_key_row,
    ("key_rows", "negative"): lambda v: read_key_row(bytes.fromhex(v["row"])),
    ("open", "positive"): check_open,
    ("open", "negative"): open_step_by_step,
    ("expiry", "ttl"): check_ttl,
    ("expiry", "new_expiry"): new_expiry,
}


def main():
    count = 0
    for path in sorted(HERE.glob("*.json")):
        for part, vectors in json.loads(path.read_text(encoding="utf-8")).items():
            for vector in vectors:
                where = f"{path.name}, {part}, {vector.get('name', vector)}"
                failure = None
                try:
                    CHECKS[path.stem, part](vector)
                except Refused as refused:
                    failure = str(refused)
                except AssertionError:
                    raise SystemExit(f"{where}: another result") from None
                if failure != vector.get("failure"):
                    raise SystemExit(f"{where}: {failure}, expected {vector.get('failure')}")
                count += 1
    print(f"{count} vectors hold")


if __name__ == "__main__":
    main()
