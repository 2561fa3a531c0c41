"""The Python examples of the README and of the reference, by kind.

`APPS` define a web application, `SYNC` are for code that is not async, `DURABLE` use a database,
`SCRIPTS` and `TESTS` run as they are, and `SNIPPETS` stand inside of
`async with BackupsClient() as client:`.
"""

import ast
import re
from pathlib import Path

import vpsbackups_async

README = Path(__file__).parent.parent / "README.md"
PACKAGE = Path(vpsbackups_async.__file__).parent


def blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def docstring(file: str) -> str:
    """That of a module, without importing it, as it may need an extra."""
    return ast.get_docstring(ast.parse((PACKAGE / file).read_text("utf-8"))) or ""


BLOCKS = blocks(README.read_text("utf-8"))
EXAMPLES = BLOCKS + [
    block
    for folder in ("", "audit/", "durable/", "testing/")
    for block in blocks(docstring(f"{folder}__init__.py"))
]
EXAMPLES += blocks(docstring("events.py"))
APPS = [block for block in EXAMPLES if re.search(r"^app = ", block, re.MULTILINE)]
SYNC = [block for block in EXAMPLES if "start_blocking_portal(" in block]
SCRIPTS = [block for block in EXAMPLES if "asyncio.run(" in block]
TESTS = [block for block in EXAMPLES if re.search(r"^(async )?def test_", block, re.MULTILINE)]
DURABLE = [block for block in EXAMPLES if "vpsbackups_async.durable" in block]
SNIPPETS = [block for block in EXAMPLES if block not in APPS + SCRIPTS + TESTS + SYNC + DURABLE]
