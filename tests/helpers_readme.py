"""The Python examples of the README by kind.

`APPS` define a web application, `SYNC` are for code that is not async, `DURABLE` use a database,
`SCRIPTS` and `TESTS` run as they are, and `SNIPPETS` stand inside of
`async with BackupsClient() as client:`.
"""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text("utf-8"), re.DOTALL | re.MULTILINE)
APPS = [block for block in BLOCKS if re.search(r"^app = ", block, re.MULTILINE)]
SYNC = [block for block in BLOCKS if "start_blocking_portal(" in block]
SCRIPTS = [block for block in BLOCKS if "asyncio.run(" in block]
TESTS = [block for block in BLOCKS if re.search(r"^(async )?def test_", block, re.MULTILINE)]
DURABLE = [block for block in BLOCKS if "vpsbackups_async.durable" in block]
SNIPPETS = [block for block in BLOCKS if block not in APPS + SCRIPTS + TESTS + SYNC + DURABLE]
