"""A decoder that some files kill or hang, for worker processes."""

from __future__ import annotations

import os
import signal
import time

from pipeline.dedupe.inspection import Inspection, InspectionPart, inspect_part

KILLER, HANGER = b"this file kills the decoder", b"this file hangs the decoder"


def inspect_fragile(part: InspectionPart) -> list[Inspection]:
    """Inspect with a decoder that crashes on files with one text in them and hangs on those with another."""
    for place in part.places:
        data = (part.segments / place.segment).read_bytes()[place.offset :][: place.bytes]
        if KILLER in data:
            os.kill(os.getpid(), signal.SIGSEGV)
        if HANGER in data:
            time.sleep(60)
    return inspect_part(part)
