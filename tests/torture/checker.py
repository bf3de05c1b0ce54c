#!/usr/bin/env python3
"""Checks restored databases with Python's own SQLite: what each is a commit of, or that it is none.

usage: checker.py           paths of database files on standard input, one a line; for each one line comes back:
                            `ok BIRTH N H`, or `bad WHAT`

Files are opened immutable: nothing is made beside them. Exit code: 0 at the end of the input, 2 usage.
"""
import sqlite3
import sys
import urllib.parse

import chain


def look(path):
    connection = sqlite3.connect(f"file:{urllib.parse.quote(path)}?immutable=1", uri=True)
    try:
        birth, n, h = chain.proven(lambda sql: connection.execute(sql).fetchall())
        return f"ok {birth} {n} {h}"
    except (ValueError, sqlite3.Error) as error:
        return "bad " + " ".join(str(error).split())
    finally:
        connection.close()


def main():
    if len(sys.argv) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    for line in sys.stdin:
        print(look(line.rstrip("\n")), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
