"""Documents of one request -> pictures of their pages.

Knows JSON parts of type `file`. Knows nothing of messages or answers.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from qwen_vl.config import Settings
from qwen_vl.errors import BadRequest, Unsupported
from qwen_vl.media.documents import read_pages
from qwen_vl.media.pictures import data_uri_bytes
from qwen_vl.schema import ImagePart, Part


class DocumentReader:
    """Reads the documents of one request. `has_left` ends that when its client is gone."""

    def __init__(self, settings: Settings, has_left: threading.Event) -> None:
        self._settings, self._has_left = settings, has_left

    def pages(self, raw: Mapping[str, Any], where: str) -> list[Part]:
        """`{"type": "file", "file": {"file_data": data URI}}` -> a picture of each page.

        Which: `pages`, as in "1-3, 7"; without it, the first ones.
        """
        file, chosen = raw.get("file"), raw.get("pages")
        if not isinstance(file, Mapping):
            raise BadRequest(f"{where}.file must be an object with 'file_data'.")
        if file.get("file_id") is not None:
            raise Unsupported(
                f"{where}.file.file_id: this server keeps no files. Send the PDF itself as "
                "file_data, a data: URI."
            )
        uri = file.get("file_data")
        if not isinstance(uri, str):
            raise BadRequest(f"{where}.file.file_data must be a string: a data: URI.")
        if not isinstance(chosen, str | None):
            raise BadRequest(f'{where}.pages must be a string, as in "1-3, 7".')
        data = data_uri_bytes(uri, "document", self._settings.max_document_mb)
        document = read_pages(data, self._settings, chosen or "", self._has_left.is_set)
        return [ImagePart(page.picture) for page in document.pages]
