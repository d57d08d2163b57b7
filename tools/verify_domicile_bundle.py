#!/usr/bin/env python3
"""Verifies an evidence bundle of domicile with nothing but the Python standard library.

    python3 verify_domicile_bundle.py BUNDLE --key KEYS [--seen CHECKPOINT ...]

It shares no code with domicile and makes the same checks in the same order: read it from top to bottom, in ten minutes.
KEYS holds the sites' verifier keys, one a line, which you got from somewhere other than the bundle. CHECKPOINT is one
that you were given earlier, or that somebody else was given. Formats: RFC 6962 and 9162, RFC 8032, DSSE, in-toto, and
c2sp.org/signed-note, tlog-checkpoint, tlog-cosignature. Exit: 0 proven, 3 unanchored, 1 refuted, 2 wrong use.
"""

import argparse
import base64
import binascii
import bisect
import hashlib
import json
import re
import struct
import sys
import zlib

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,98}[A-Za-z0-9])?")  # of keys and logs
WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:/-]{0,99}")  # of everything else
HEX = re.compile(r"[0-9a-f]{64}")
PARTS = ("checkpoint", "history.json", "leaves.jsonl", "tree.txt")
ENTRY = re.compile(r"manifest\.json|keys\.txt|log-[0-7]/(checkpoint|history\.json|leaves\.jsonl|tree\.txt)")
ENVELOPE = re.compile(
    rb'\{"payload":"([A-Za-z0-9+/]+={0,2})","payloadType":"application/vnd\.in-toto\+json",'
    rb'"signatures":\[\{"keyid":"([A-Za-z0-9._/+-]{1,120})","sig":"([A-Za-z0-9+/]{86}==)"\}\]\}'
)
LOG, WITNESS = 1, 4  # types of keys
BYTES_MAX = 256 * 1024 * 1024  # of a bundle
FIELDS = {  # of each kind of statement, beside site and time; i is a count, h a hash, w a word
    "plan": "dataset:w source:w target:w mode:w subjects:i waves:i cohort:h approvals:i undo_seconds:i",
    "approval": "act:w approver:h given:i expires:i",
    "abort": "waves:i",
    "snapshot": "wave:i position:w subjects:i members:h",
    "copy": "wave:i rows:i bytes:i",
    "verdict": "wave:i outcome:w rows:i differences:i root:h",
    "handover": "wave:i home:w epoch:i root:h",
    "rollback": "wave:i home:w epoch:i root:h",
    "pause": "wave:i epoch:i pause_us:i",
    "stepback": "wave:i epoch:i",
    "gap": "wave:i epoch:i root:h",
    "purge": "wave:i rows:i position:w root:h",
    "scan": "method:w place:w copies_found:i canaries_planted:i canaries_found:i",
    "residual": "place:w reason:w expires:i",
}
CHECKS = [
    "container",
    "checkpoint",
    "cosignature",
    "history",
    "envelope",
    "move",
    "chain",
    "inclusion",
    "acts",
    "agreement",
    "manifest",
    "seen",
]


class Refused(Exception):
    """A check has failed; the text says why."""


def need(fact, why):
    if not fact:
        raise Refused(why)


# --- Ed25519, RFC 8032: points of the curve in extended coordinates (X, Y, Z, T) ---

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P


def add(p, q):
    a, b = (p[1] - p[0]) * (q[1] - q[0]) % P, (p[1] + p[0]) * (q[1] + q[0]) % P
    c, d = 2 * p[3] * q[3] * D % P, 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def point(raw):
    y, sign = int.from_bytes(raw, "little") & (1 << 255) - 1, raw[31] >> 7
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if y >= P or (x * x - square) % P or (x == 0 and sign):
        return None
    x = P - x if x & 1 != sign else x
    return x, y, 1, x * y % P


BASE = point((4 * pow(5, -1, P) % P).to_bytes(32, "little"))


def signed_by(public, signature, message):
    """Whether R = S*B - h*A, compared as bytes."""
    a = point(public)
    s = int.from_bytes(signature[32:], "little")
    if a is None or len(signature) != 64 or s >= L:
        return False
    h = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % L
    minus_a = (P - a[0], a[1], 1, P - a[3])
    table = (None, BASE, minus_a, add(BASE, minus_a))
    total = (0, 1, 1, 0)
    for bit in range(252, -1, -1):
        total = add(total, total)
        step = (s >> bit & 1) + 2 * (h >> bit & 1)
        total = add(total, table[step]) if step else total
    x, y = (v * pow(total[2], -1, P) % P for v in total[:2])
    return (y | (x & 1) << 255).to_bytes(32, "little") == signature[:32]


# --- One accepted form for everything ---


def base64_bytes(text, length=None):
    try:
        raw = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except ValueError:
        raise Refused("not base64") from None
    need(base64.b64encode(raw).decode() == text and length in (None, len(raw)), "base64 in another spelling or length")
    return raw


def count(text):
    need(re.fullmatch(r"0|[1-9][0-9]{0,15}", text), "not a number")
    return int(text)


def canonical_json(raw):
    """A JSON value in the one spelling that is accepted. Written again it must be the same: so no key stands twice."""

    def no_fraction(text):
        raise ValueError(text)

    def short(text):
        return int(text) if len(text) < 17 else no_fraction(text)

    try:
        value = json.loads(raw, parse_int=short, parse_float=no_fraction, parse_constant=no_fraction)
        again = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        raise Refused("not JSON") from None
    need(again == raw, "JSON in another spelling, or a key twice")
    return value


def unzip(raw):
    """The entries of an archive in the one form that is accepted: stored, sorted, nothing between or behind."""
    need(len(raw) <= BYTES_MAX, "too large")
    files, directory, at = {}, b"", 0
    while raw[at : at + 4] == b"PK\3\4":
        need(len(raw) >= at + 30, "cut off")
        size, name_size = struct.unpack_from("<LH", raw, at + 22)
        name, content = raw[at + 30 : at + 30 + name_size], raw[at + 30 + name_size : at + 30 + name_size + size]
        need(name.isascii() and ENTRY.fullmatch(name.decode()), "an entry that does not belong")
        need(len(content) == size and name.decode() > max(files, default=""), "an entry cut off, twice or out of order")
        facts = struct.pack("<5H3L2H", 20, 0, 0, 0, 0x21, zlib.crc32(content), size, size, name_size, 0)
        need(raw[at : at + 30] == b"PK\3\4" + facts, "an entry that is compressed, damaged or has extra fields")
        directory += b"PK\1\2" + struct.pack("<H", 20) + facts + struct.pack("<3H2L", 0, 0, 0, 0, at) + name
        files[name.decode()] = content
        at += 30 + name_size + size
    end = struct.pack("<4H2LH", 0, 0, len(files), len(files), len(directory), at, 0)
    need(files and raw[at:] == directory + b"PK\5\6" + end, "the archive's directory is not that of its entries")
    logs = sum(n.endswith("/checkpoint") for n in files)
    whole = {"manifest.json", "keys.txt"} | {f"log-{n}/{p}" for n in range(logs) for p in PARTS}
    need(logs and set(files) == whole, "a file is missing or too many")
    return files, logs


# --- Keys, notes, envelopes ---


def read_keys(raw):
    """{(name, key id): (type, public key)}"""
    keys = {}
    need(raw.isascii(), "keys that are not ASCII")
    for line in raw.decode().splitlines():
        if line and not line.startswith("#"):
            name, key_id, material = (*line.split("+", 2), "", "")[:3]
            body = base64_bytes(material, 33)
            wanted = hashlib.sha256(name.encode() + b"\n" + body).digest()[:4]
            need(NAME.fullmatch(name) and body[0] in (LOG, WITNESS) and key_id == wanted.hex(), "not a verifier key")
            need((name, wanted) not in keys, "a key twice")
            keys[name, wanted] = (body[0], body[1:])
    need(0 < len(keys) <= 64, "no keys, or too many")
    return keys


def read_checkpoint(raw):
    """A signed note that is a checkpoint."""
    try:
        text, blank, lines = raw.decode().rpartition("\n\n")
    except UnicodeDecodeError:
        raise Refused("a note that is not UTF-8") from None
    need(len(raw) <= 65536 and blank and lines.endswith("\n") and lines.count("\n") <= 32, "not a signed note")
    signatures = []
    for line in lines[:-1].split("\n"):
        dash, name, material = (*line.split(" "), "", "")[:3]
        body = base64_bytes(material)
        need(line.count(" ") == 2 and dash == "—" and NAME.fullmatch(name) and len(body) > 4, "not a signature line")
        signatures.append((name, body[:4], body[4:]))
    need(text.count("\n") == 2, "a checkpoint has three lines")
    origin, size, root = text.split("\n")
    need(NAME.fullmatch(origin), "the name of a log")
    return {
        "origin": origin,
        "size": count(size),
        "root": base64_bytes(root, 32),
        "text": text + "\n",
        "by": signatures,
    }


def log_signed(note, keys, origin):
    """Whether a key of the log has signed, and nothing in that key's name is false."""
    for (name, key_id), (kind, public) in keys.items():
        own = [body for n, i, body in note["by"] if (n, i) == (name, key_id) and kind == LOG and n == origin]
        if own and all(signed_by(public, body, note["text"].encode()) for body in own):
            return True
    return False


def cosigners(note, keys):
    """Names of other sites' witnesses whose cosignature is there and true."""
    found = set()
    for name, key_id, body in note["by"]:
        kind, public = keys.get((name, key_id), (None, b""))
        if kind == WITNESS and name != note["origin"]:
            message = f"cosignature/v1\ntime {int.from_bytes(body[:8], 'big')}\n{note['text']}".encode()
            need(len(body) == 72 and signed_by(public, body[8:], message), f"the cosignature of {name} is false")
            found.add(name)
    return found


def open_envelope(raw):
    """Payload, (key name, key id), signature, and what was signed."""
    found = ENVELOPE.fullmatch(raw)
    need(found and len(raw) <= 65536, "not a DSSE envelope in its one form")
    payload, key, signature = base64_bytes(found[1].decode()), found[2].decode(), base64_bytes(found[3].decode(), 64)
    name, _, key_id = key.rpartition("+")
    kind = b"application/vnd.in-toto+json"
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    return payload, (name, bytes.fromhex(key_id) if re.fullmatch("[0-9a-f]{8}", key_id) else b""), signature, signed


def envelope_signed(envelope, keys, origins):
    _, key, signature, message = envelope
    kind, public = keys.get(key, (None, b""))
    return kind == LOG and key[0] in origins and signed_by(public, signature, message)


def open_statement(payload):
    """Predicate type, [(subject name, digest)], predicate."""
    found = canonical_json(payload)
    good = isinstance(found, dict) and set(found) == {"_type", "predicate", "predicateType", "subject"}
    need(good and found["_type"] == "https://in-toto.io/Statement/v1", "not an in-toto statement")
    kind, subjects, predicate = found["predicateType"], found["subject"], found["predicate"]
    need(isinstance(kind, str) and isinstance(subjects, list) and isinstance(predicate, dict), "not a statement")
    for s in subjects:
        good = isinstance(s, dict) and set(s) == {"digest", "name"} and isinstance(s["name"], str)
        need(good and isinstance(s["digest"], dict) and set(s["digest"]) == {"sha256"}, "a subject of another form")
        need(fits(s["digest"]["sha256"], "h"), "a digest of another form")
    return kind, [(s["name"], s["digest"]["sha256"]) for s in subjects], predicate


def fits(value, kind):
    if kind == "i":
        return type(value) is int and 0 <= value < 2**53
    return isinstance(value, str) and bool((HEX if kind == "h" else WORD).fullmatch(value))


def read_act(payload):
    """One act of a move: its kind, its fields, and its subject."""
    uri, subjects, act = open_statement(payload)
    kind = uri.removeprefix("urn:domicile:evidence:").removesuffix(":v1")
    need(uri == f"urn:domicile:evidence:{kind}:v1" and kind in FIELDS and len(subjects) == 1, "no known statement")
    wanted = dict(f.split(":") for f in f"site:w time:i {FIELDS[kind]} sequence:i previous:h".split())
    need(set(act) == set(wanted) and all(fits(act[f], wanted[f]) for f in wanted), f"fields of a {kind} statement")
    need(fits(subjects[0][0], "w"), "the name of a move")
    return {**act, "kind": kind, "about": subjects[0]}


# --- The tree, RFC 6962 ---


def leaf_hash(leaf):
    return hashlib.sha256(b"\0" + leaf).digest()


def node(left, right):
    return hashlib.sha256(b"\1" + left + right).digest()


def split(n):
    return 1 << ((n - 1).bit_length() - 1)


def take(hashes):
    need(hashes, "too few hashes")
    return hashes.pop()


def check_growth(old, new, proof):
    """That the log `new` begins with the log `old`."""

    def walk(m, n, whole):
        if m == n:
            found = old["root"] if whole else take(steps)
            return found, found
        k, step = split(n), take(steps)
        if m <= k:
            first, second = walk(m, k, whole)
            return first, node(second, step)
        first, second = walk(m - k, n - k, False)
        return node(step, first), node(step, second)

    steps = list(proof)
    need(old["origin"] == new["origin"] and old["size"] <= new["size"], "rolled back, or checkpoints of two logs")
    empty = old["size"] == 0 and old["root"] == hashlib.sha256(b"").digest()
    need(empty or (old["size"] and walk(old["size"], new["size"], True) == (old["root"], new["root"])), "forked")
    need(not steps, "too many hashes")


def check_inclusion(log):
    """That leaves at their indexes, and the subtrees between them, give the checkpoint's root."""

    def root(low, high):
        if bisect.bisect_left(indexes, low) == bisect.bisect_left(indexes, high):
            return take(outside)
        if high - low == 1:
            return take(leaves)
        middle = low + split(high - low)
        left = root(low, middle)
        return node(left, root(middle, high))

    indexes, outside, leaves = log["indexes"], log["outside"][::-1], [leaf_hash(x) for x in log["leaves"]][::-1]
    found = root(0, log["size"]) if log["size"] else hashlib.sha256(b"").digest()
    need(found == log["root"] and not outside and not leaves, f"{log['origin']}: the statements are not in the log")


def read_log(files, n):
    """One log's part of the bundle."""
    raw = [files[f"log-{n}/{p}"] for p in PARTS]
    need(len(raw[1]) <= 16 * 1024 * 1024 and max(r.count(b"\n") for r in raw[2:]) <= 4_000_000, "too long")
    log, history, lines = read_checkpoint(raw[0]), canonical_json(raw[1]), raw[3].decode("ascii", "replace").split("\n")
    log["leaves"] = raw[2].split(b"\n")
    need(log["leaves"].pop() == b"" and lines.pop() == "", "lines that do not end")
    log["indexes"], log["outside"], log["history"], end = [], [], [], -1
    for words in (line.split(" ") for line in lines):
        if len(words) == 3 and words[0] == "leaves" and not log["outside"]:
            low, high = count(words[1]), count(words[2])
            need(
                end < low < high <= log["size"] and high - low <= len(log["leaves"]) - len(log["indexes"]),
                "runs of leaves",
            )
            log["indexes"] += range(low, high)
            end = high
        else:
            log["outside"].append(base64_bytes(" ".join(words), 32))
    need(len(log["indexes"]) == len(log["leaves"]), "another number of leaves than the tree says")
    need(isinstance(history, list), "not a history")
    for e in history:
        need(isinstance(e, dict) and set(e) == {"checkpoint", "growth"} and isinstance(e["growth"], list), "a history")
        need(all(isinstance(x, str) for x in [e["checkpoint"], *e["growth"]]), "a history")
        log["history"].append(
            (
                read_checkpoint(e["checkpoint"].encode("utf-8", "surrogatepass")),
                [base64_bytes(x, 32) for x in e["growth"]],
            )
        )
    return log


# --- The checks, in the order of CHECKS: each is run to its `yield`, and the first to fail ends it ---


def checks(raw, keys, seen):
    files, n = unzip(raw)
    logs = [read_log(files, i) for i in range(n)]
    own, manifest = read_keys(files["keys.txt"]), open_envelope(files["manifest.json"])
    keys, origins = keys or own, {log["origin"] for log in logs}
    kind, digests, told = open_statement(manifest[0])
    need(len(origins) == n and kind == "urn:domicile:evidence:bundle:v1", "one log twice, or no manifest")
    need(
        set(told) == {"format", "logs", "move", "plan"} and fits(told["format"], "i") and told["format"] == 1,
        "a manifest of another form",
    )
    need(fits(told["move"], "w") and fits(told["plan"], "h"), "a manifest of another form")
    yield "container"
    for log in logs:
        need(log_signed(log, keys, log["origin"]), f"{log['origin']}: not signed by a key of the log that you trust")
    yield "checkpoint"
    for log in logs:
        need(cosigners(log, keys), f"{log['origin']}: no other site that you trust has cosigned")
    yield "cosignature"
    for log in logs:
        for (old, proof), new in zip(log["history"], [e[0] for e in log["history"][1:]] + [log]):
            need(log_signed(old, keys, log["origin"]), f"{log['origin']}: an earlier checkpoint is not the log's")
            check_growth(old, new, proof)
    yield "history"
    for log in logs:
        envelopes = [open_envelope(leaf) for leaf in log["leaves"]]
        need(all(envelope_signed(e, keys, {log["origin"]}) for e in envelopes), f"{log['origin']}: a false signature")
        log["acts"] = [read_act(e[0]) for e in envelopes]
    yield "envelope"
    for log in logs:
        need(all(a["about"] == (told["move"], told["plan"]) for a in log["acts"]), "a statement of another move")
    yield "move"
    for log in logs:
        before = ["0" * 64] + [leaf_hash(leaf).hex() for leaf in log["leaves"]]
        for place, act in enumerate(log["acts"]):
            need((act["sequence"], act["previous"]) == (place, before[place]), f"{log['origin']}: {place} is missing")
    yield "chain"
    for log in logs:
        check_inclusion(log)
    yield "inclusion"
    for log in logs:
        check_acts(log["acts"])
    yield "acts"
    for gap in (a for log in logs for a in log["acts"] if a["kind"] == "gap"):
        need(n > 1, "a verdict was lost in a failover, and no other log bears its departure out")
        print(f"{gap['site']}: a failover took the verdict of wave {gap['wave']}, epoch {gap['epoch']}: NOT shown")
    need(all(handovers(log["acts"]) == handovers(logs[0]["acts"]) for log in logs), "the logs tell different handovers")
    yield "agreement"
    need(envelope_signed(manifest, keys, origins), "the manifest is not signed by a log of the bundle")
    have = sorted((name, hashlib.sha256(raw).hexdigest()) for name, raw in files.items() if name != "manifest.json")
    last = [leaf_hash(log["leaves"][-1]).hex() if log["leaves"] else "" for log in logs]
    said = [
        {"last": end, "leaves": len(log["leaves"]), "origin": log["origin"], "size": log["size"]}
        for log, end in zip(logs, last)
    ]
    need(
        digests == have and json.dumps(told["logs"], sort_keys=True) == json.dumps(said, sort_keys=True),
        "the bundle is not as its manifest says",
    )
    yield "manifest"
    for note in seen:
        for log in (x for x in logs if x["origin"] == note["origin"]):
            need(log_signed(note, keys, note["origin"]), "the checkpoint that you brought is not signed by the log")
            need(note["size"] <= log["size"], f"{log['origin']}: rolled back behind the checkpoint that you brought")
            same = [x["root"] for x in [log, *(e[0] for e in log["history"])] if x["size"] == note["size"]]
            need(all(root == note["root"] for root in same), f"{log['origin']}: forked: you were shown another log")
            print(f"{log['origin']}: your checkpoint of {note['size']} leaves is {'' if same else 'NOT '}compared")
    yield "seen"


def check_acts(acts):
    """The rules that the acts of one log follow, wave by wave."""
    verdicts, lost, trips, purged, asked, approvers = {}, {}, {}, set(), 0, set()
    for act in acts:
        kind, wave = act["kind"], act.get("wave")
        need(act["site"] == acts[0]["site"], "a statement of another site")
        mine = trips.setdefault(wave, [])  # its handovers and rollbacks that were not taken back
        if kind == "plan":
            asked = max(asked, act["approvals"])  # of a purge, by different people; a later plan asks for no less
        if kind == "approval" and act["act"] == "purge":
            approvers.add(act["approver"])
        if kind == "verdict":
            verdicts[wave] = act["root"] if act["outcome"] == "equal" and act["differences"] == 0 else None
            lost.pop(wave, None)
        if kind == "gap":  # a failover took the verdict under which the wave departed at this epoch
            lost[wave] = (act["epoch"], act["root"])
        if kind in ("handover", "rollback"):
            need(act["epoch"] > (mine[-1]["epoch"] if mine else 0), "an epoch that does not rise")
            need(wave not in purged, f"a {kind} after a purge")
            away = mine and mine[-1]["kind"] == "handover"
            need(kind == "handover" or away, "a rollback of a wave that was not handed over")
            compared = verdicts.get(wave) == act["root"] or lost.get(wave) == (act["epoch"], act["root"])
            need(compared or act["home"] == act["site"], "a departure without an equal verdict of its root")
            mine.append(act)
        if kind == "stepback" and act["epoch"]:
            latest = mine and mine[-1]["epoch"] == act["epoch"] and mine[-1]["home"] != act["site"]
            need(latest and wave not in purged, "a step back from what is not the wave's latest departure")
            mine.pop()
        if kind == "purge":
            need(len(approvers) >= asked, "a purge without the approvals that the plan asks for")
            need(mine and mine[-1]["home"] != act["site"], "a purge where the wave is at home")
            told_lost = lost.get(wave) == (mine[-1]["epoch"], mine[-1]["root"])
            need(verdicts.get(wave) or told_lost, "a purge without a clean verdict")
            purged.add(wave)
        need(kind not in ("scan", "residual") or purged, f"a {kind} before a purge")


def handovers(acts):
    """Those that were not taken back, wave by wave."""
    told = []
    for a in acts:
        if a["kind"] in ("handover", "rollback"):
            told.append((a["wave"], a["epoch"], a["kind"], a["home"], a["root"]))
        if a["kind"] == "stepback" and a["epoch"]:
            told = [t for t in told if t[:2] != (a["wave"], a["epoch"])]
    return sorted(told)


def verify(raw, keys, seen=()):
    """(verdict, the check that failed or '', why)"""
    passed = []
    try:
        for name in checks(raw, keys, seen):
            passed.append(name)
    except Refused as why:
        return "refuted", CHECKS[len(passed)], str(why)
    return ("proven" if keys else "unanchored"), "", f"{len(passed)} checks passed"


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("bundle", metavar="BUNDLE")
    options.add_argument("--key", metavar="KEYS")
    options.add_argument("--seen", metavar="CHECKPOINT", action="append", default=[])
    given = options.parse_args()
    try:
        raw = open(given.bundle, "rb").read(BYTES_MAX + 1)
        keys = read_keys(open(given.key, "rb").read()) if given.key else {}
        seen = [read_checkpoint(open(path, "rb").read()) for path in given.seen]
    except (OSError, Refused) as why:
        sys.exit(print(f"cannot be read: {why}", file=sys.stderr) or 2)
    verdict, check, why = verify(raw, keys, seen)
    print(f"{verdict}{': ' if check else ''}{check}: {why}")
    sys.exit({"proven": 0, "unanchored": 3, "refuted": 1}[verdict])


if __name__ == "__main__":
    main()
