"""Names that want out of the folder they are looked up in, and names that no system agrees on."""

from __future__ import annotations

from itertools import product

UPWARD = (
    "..",
    "../..",
    "../../secret.txt",
    "a/../../secret.txt",
    "./../secret.txt",
    "%2e%2e/secret.txt",
    "..\\secret.txt",
)
ABSOLUTE = (
    "/etc/passwd",
    "//etc/passwd",
    "C:/Windows/win.ini",
    "C:\\Windows\\win.ini",
    "\\\\host\\share\\x",
    "file:///etc/passwd",
)
DEVICES = ("CON", "con.txt", "NUL", "nul.tar.gz", "aux", "COM1", "lpt9.json", "a/PRN/b")
SHAPES = (
    "", ".", "a//b", "a/", "/a", "trailing.", "trailing ", " leading", "a/.git/config", ".hidden", "a/.env", "a\0b",
    "a\nb", "a\rb", "a\tb", "a:b", "a*b", "a?b", "a|b", 'a"b',
    "a<b", "größe", "a\u202eb", "\ud800", "x" * 300, "a/" * 40 + "b", "~/x", "$HOME/x", "-rf",
)  # fmt: skip
HOSTILE = sorted({
    *UPWARD, *ABSOLUTE, *DEVICES, *SHAPES,
    *(f"{a}/{b}" for a, b in product(("ok", "ok/deep", "..", "."), (*UPWARD, *DEVICES, *SHAPES))
      if b not in ("", "-rf")),
    *(f"{a}/ok" for a in (*UPWARD, *ABSOLUTE, *DEVICES, *SHAPES) if a not in ("", "-rf")),
})  # fmt: skip
