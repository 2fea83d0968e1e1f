"""Pages that a process frees and touches again, as the kernel counts them."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CODE = """
import io, resource
from PIL import Image
from drorae.runtime.memory import keep_freed
stream = io.BytesIO()
Image.effect_noise((1500, 1200), 64).convert("RGB").save(stream, "JPEG")

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        with Image.open(io.BytesIO(stream.getvalue())) as picture:
            picture.convert("RGB").resize((288, 288))
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 10

usual = faults()
keep_freed()
faults()
print(usual, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_pictures_take_the_memory_of_those_before_them() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    usual, kept = map(float, done.stdout.split())
    # A picture has 1300 pages of 4 KiB.
    assert usual > 1000 and kept < 100


def test_another_c_library_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from drorae.runtime import memory

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    memory.keep_freed()
