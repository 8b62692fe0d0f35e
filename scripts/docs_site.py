"""A hook of MkDocs (mkdocs.yml), for links that leave docs/: pictures are copied into the site, other files linked.

On GitHub, other files are linked in the repository; elsewhere in this checkout.
"""

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = re.compile(r"(?<=\]\()\.\./([\w./-]+)")  # a link's target, from the root
BEFORE_LIST = re.compile(r"^(?=\S)(?![-|>]|\d+\. )(.+\n)(?=- |1\. )", re.MULTILINE)  # MkDocs wants an empty line there
PICTURES = (".png", ".gif")


def on_files(files: Files, config: Any) -> Files:
    """Add the pictures of results/ and pretrained/ that pages show."""
    for page in files.documentation_pages():
        for path in OUTSIDE.findall(page.content_string):
            if path.endswith(PICTURES) and path not in files.src_uris:
                files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Lead each link that leaves docs/ to its file."""
    repository = os.environ.get("GITHUB_REPOSITORY")
    base = f"https://github.com/{repository}/blob/main/" if repository else f"{ROOT.as_uri()}/"
    markdown = OUTSIDE.sub(lambda link: ("" if link[1].endswith(PICTURES) else base) + link[1], markdown)
    return BEFORE_LIST.sub(r"\1\n", markdown)
