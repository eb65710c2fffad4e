"""Lines of slices are numbered as people count them in their file."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from api.line_numbers import LineNumbers
from tasks.jsonl.input import Endpoint, examine
from tasks.storage import Storage, content_name

LINE = b'{"custom_id": "%d", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}'


@pytest.mark.parametrize(
    "content", ["1\n2\n3\n4\n5\n", "\n1\n\n2\n3\n\n\n4\n5", "1\n2\n3\n\n4\n5\n"]
)
@pytest.mark.parametrize("is_there", [True, False])
def test_blank_lines_count_and_what_is_gone_is_not_guessed(tmp_path, content, is_there):
    lines = [LINE % int(text) if text else b"" for text in content.split("\n")]
    storage = Storage(str(tmp_path))
    storage.write(content_name("file-1"), b"\n".join(lines))
    with storage.open(content_name("file-1")) as file:
        ranges = examine(file, Endpoint.COMPLETIONS, 2).ranges
    if not is_there:
        storage.remove(content_name("file-1"))
    numbers = LineNumbers(storage, SimpleNamespace(input_file_id="file-1"), ranges)
    known = [numbers.of(n, i) for n, where in enumerate(ranges) for i in range(where.lines)]
    expected = [i for i, text in enumerate(lines, 1) if text]
    if is_there:
        assert known == expected
    else:
        assert known[-1] is None
        assert all(a in {None, b} for a, b in zip(known, expected, strict=True))
    assert numbers.of(9, 0) is None
