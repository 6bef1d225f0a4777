"""What does not belong into a file: fragments of JSON, of YAML, and texts. The campaign picks among them by its seed."""

from __future__ import annotations

_PLAIN = """
NaN Infinity -Infinity 1e999 -1e999 1e-999 0 -0.0 -1 1 2 3 7 0.5 1.5 1e-1 1e308 127 128 255 65536 2147483647 2147483648
-2147483649 4294967296 9007199254740993 9223372036854775807 9223372036854775808 18446744073709551616
"" "0" "1" "nan" "none" "true" "../../../etc/passwd" "/dev/zero" "/" "." ".." "blocks.0" "head" "llama" "gpt2" "gelu" "float64"
"%s%n" "{0.__class__}" "\\u0000" "\\ud800" "\\u202e\\u2066" "\\r\\n" "\\u001b]0;title\\u0007\\u001b[31m"
null true false [] {} [0] [1,2,3] [null] [[]] {"a":1} {"":{}} [1e999] ["x",1]
"""
JSON = [
    *_PLAIN.split(),
    *('" "', '"[bold red]"', f'"{"x" * 300}"', f'"{"long name " * 20_000}"'),
    *(f"1{'0' * 400}", "9" * 6000, f"1e{'9' * 30}"),
    *("[" * 900 + "]" * 900, "[" * 100_000 + "]" * 100_000, '{"a":' * 900 + "1" + "}" * 900, f"[{'0,' * 100_000}0]"),
]
"""Values, and a few that JSON does not have though Python reads them."""

WHOLE_JSON = [
    *("", " ", "\x00", "{'a': 1}", '{"a": 1,}', "// note\n{}", "\ufeff{}", "[" * 100_000, '{"a":' * 100_000, "9" * 10_000),
    *'{ } [] {} {}{} null 3 "text" NaN {"a"'.split(),
]

_PLAIN_YAML = """
~ yes off .nan .inf -.inf 1e400 0x1F 0o17 1_000 12:30:45 2024-02-30 2024-99-99 2001-12-14t21:59:43.10-05:00 *nowhere
!!python/name:os.system ' "\\x" "\\uD800" "\\e[31m" "\\0" > @x `x` %x [ } 0 -1 1 4 8 0.25 0.5 0.500001 3.7 9007199254740993
'' [] {} offset signed gptq rtn blocks none /dev/zero
"""
YAML = [
    *_PLAIN_YAML.split(),
    *("!!timestamp 2001-13-01", "!!binary '###'", "!!binary aGk=", "!!set {a, b}", "!!omap [a: 1]", "!unknown x"),
    *("!!python/object/apply:os.getcwd []", "!!int 'x'", "!!float 'x'", "!!bool 3", "!!null x", "&a [*a]", "&a {b: *a}"),
    *("{? [1, 2] : 3}", "{? {a: 1} : 3}", "{1: 2}", "{null: 1}", "{true: 1}", "{a: 1}", "[1, 2]"),
    *("|\n    text", "\tx", "- 1", "? x", ": x", "9" * 6000, f"1{'0' * 400}", "x" * 50_000),
    *("[" * 500 + "]" * 500, "[" * 20_000 + "]" * 20_000, "{a: " * 500 + "1" + "}" * 500),
]

_LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
_MERGES = "m0: &m0 {k: 1}\n" + "".join(f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}]}}\n" for i in range(1, 12))
WHOLE_YAML = [
    *("", "\n", "---\n", "--- 1\n--- 2\n", "%YAML 9.9\n---\na: 1\n", "%TAG ! !\n", "- a\n", "text\n", "3\n", "null\n"),
    *("{", "a: b: c\n", "a:\tb\n", "\tb: 1\n", "a: 1\na: 2\n", "<<: {a: 1}\n", "<<: 3\n", "? \n", "...\n", "\ufeffa: 1\n"),
    *("&a *a\n", "\x00", _LAUGHS, _MERGES, "[" * 50_000, "{a: " * 5_000, "- " * 20_000 + "a\n", "a: !!python/tuple [1]\n"),
    *("".join(f"k{i}: {i}\n" for i in range(20_000)), "x: |\n" + " y\n" * 100_000, "#" * 200_000),
]

TEXTS = [
    *("", "\n", " ", "\n\n\n\n", "a", "a\n", "aa", "\x00", "\x00" * 5_000, "\ufeff", "\ufeffOnce upon\n\n" * 20, "\r\r\r"),
    *("Once upon a time.\r\n\r\n" * 40, "Once upon a time.\r\r" * 40, "x" * 200_000, "x " * 100_000, "\n\n".join("ab" * 500)),
    *("\u202e\u2066to the left\n\n" * 40, "\U0001f600" * 500, "e\u0301" * 2_000, "\ufffd" * 2_000, "\u2028\x85\x0b\x0c" * 300),
    *("\x1b[31mred\x1b[0m\n\n" * 50, "<s></s><unk>" * 200, "</s>\n\n" * 300, "<|endoftext|>\n\n" * 100, "= A =\n\n" * 100),
    *("\U0010ffff\uffff\ufffe" * 300, "\n\n".join(map(str, range(3_000))), "\t" * 3_000, "\x7f\x80\x9b31m" * 300),
]
