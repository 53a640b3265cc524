"""Ways to spoil bytes, text and trees. All randomness comes from the generator that is passed in."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

Mutation = Callable[[Random, bytes], bytes]

TOKENS = {
    "yaml": (
        *("~", "null", "true", "yes", ".nan", "-.inf", "1e400", "-1", "0", "0x1F", "1_000", "3.0", "'", '"', "\\", "#"),
        *(
            "[",
            "]",
            "{",
            "}",
            ",",
            ":",
            ": ",
            "- ",
            "? ",
            "|\n",
            ">\n",
            "\n",
            "\t",
            "  ",
            "&a ",
            "*a",
            "<<: *a",
            "%TAG",
        ),
        *("!!python/name:os.system", "!!binary aGk=", "!!float x", "2024-02-30", "---\n", "...\n", "\0", "\ufeff", "é"),
        *("[" * 200, "{a: " * 200, "9" * 5000, "a" * 5000),
    ),
    "json": (
        *("null", "true", "NaN", "Infinity", "1e999", "-1", "0.5", '"', '""', "\\u0000", "\\ud800", "[", "]", "{", "}"),
        *(",", ":", "[" * 3000, '{"a":' * 3000, "9" * 5000, '"id"', '"../../x"', '"/etc/passwd"', "\0", "\ufeff", "é"),
    ),
    "xml": (
        *(
            "<!DOCTYPE a>",
            '<!ENTITY b "c">',
            "&b;",
            "&#0;",
            "&#xD800;",
            "&lt;",
            "<![CDATA[",
            "]]>",
            "<!--",
            "-->",
            "<?x?>",
        ),
        *("<object>", "</object>", "<name>", "</name>", "<a>" * 3000, "'", '"', "\0", "\ufeff", "é", "\x1b"),
    ),
    "lines": (
        *(
            "\n",
            "\r",
            "\r\n",
            ",",
            ";",
            '"',
            "'",
            ":",
            "#",
            " ",
            "\t",
            "\0",
            "\x1b[2J",
            "\ufeff",
            "é",
            "\u2028",
            "=1+1",
        ),
        *("../", "/", "\\", "..", "a" * 5000, '"' * 3, "1", "-1", "0", "2"),
    ),
}
NASTY: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1.5,
        2**70,
        1e308,
        float("inf"),
        float("nan"),
        "",
        " ",
        "\0",
        "\ud800",
        "../../x",
        "/x",
    ),
    *([], {}, [[]], [None], {"": None}, [0] * 50, "x" * 5000),
)


def spoil_bytes(rng: Random, data: bytes) -> bytes:
    """One to four flips, cuts, insertions, repetitions or exchanges."""
    for _ in range(rng.randint(1, 4)):
        data = rng.choice(_CHANGES)(rng, data) if data else rng.randbytes(rng.randint(0, 9))
    return data


def spoil_text(kind: str) -> Mutation:
    """Tokens of a format in places where they have no business; at times any bytes."""

    def spoil(rng: Random, data: bytes) -> bytes:
        if rng.random() < 0.2:
            return spoil_bytes(rng, data)
        text = data.decode()
        for _ in range(rng.randint(1, 3)):
            start = rng.randint(0, len(text))
            end = min(len(text), start + rng.choice((0, 0, 1, 3, 20)))
            text = text[:start] + rng.choice(TOKENS[kind]) + text[end:]
        return text.encode()

    return spoil


def spoil_values(rng: Random, data: bytes) -> bytes:
    """YAML of one mapping with the values of some keys replaced, keys misspelt or left out; at times any YAML."""
    if rng.random() < 0.3:
        return spoil_text("yaml")(rng, data)
    lines = data.decode().splitlines()
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(1, len(lines))
        key, _, _ = lines[at].partition(": ")
        tiny_to_huge = rng.uniform(-1, 1) * 10 ** rng.randint(-9, 9)
        number = rng.choice((rng.randint(-2, 5000), round(rng.uniform(-0.5, 2), 3), tiny_to_huge))
        value = rng.choice((str(number), str(number), rng.choice(TOKENS["yaml"]), lines[at].rpartition(" ")[2]))
        lines[at] = f"{key if rng.random() < 0.9 else key + 'x'}: {value}" if rng.random() < 0.95 else ""
    return "\n".join(lines).encode()


def spoil_tree(rng: Random, data: bytes) -> bytes:
    """JSON with values replaced, removed or exchanged; at times JSON that is none any more."""
    if rng.random() < 0.3:
        return spoil_text("json")(rng, data)
    tree = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        places = list(_places(tree))
        if not places:
            break
        holder, key = rng.choice(places)
        action = rng.random()
        if action < 0.2:
            del holder[key]
        elif action < 0.4:
            other, place = rng.choice(places)
            holder[key] = json.loads(json.dumps(other[place])) if place in _keys(other) else None
        else:
            holder[key] = rng.choice(NASTY)
    return json.dumps(tree).encode()


def _places(tree: Any) -> Any:
    """Every (container, key) below ``tree``."""
    for key in _keys(tree):
        yield tree, key
        yield from _places(tree[key])


def _keys(tree: Any) -> list[Any]:
    return list(tree) if isinstance(tree, dict) else list(range(len(tree))) if isinstance(tree, list) else []


def _span(rng: Random, data: bytes) -> tuple[int, int]:
    start = rng.randrange(len(data))
    return start, min(len(data), start + rng.choice((1, 1, 2, 4, 8, 64, 512)))


def _flip(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _cut(rng: Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def _remove(rng: Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def _insert(rng: Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + rng.randbytes(end - start) + data[start:]


def _overwrite(rng: Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + rng.choice((b"\0", b"\xff")) * (end - start) + data[end:]


def _repeat(rng: Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:end] + data[start:end] + data[end:]


def _exchange(rng: Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    to = rng.randrange(len(data))
    rest = data[:start] + data[end:]
    return rest[:to] + data[start:end] + rest[to:]


_CHANGES = (_flip, _flip, _flip, _cut, _remove, _insert, _overwrite, _repeat, _exchange)
