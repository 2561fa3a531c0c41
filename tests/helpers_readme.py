"""The Python examples of the README; `APPS` are those that define a web application."""

import re
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text("utf-8"), re.DOTALL | re.MULTILINE)
APPS = [block for block in BLOCKS if re.search(r"^app = ", block, re.MULTILINE)]
