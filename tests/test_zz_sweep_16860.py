
import pytest, json
from pathlib import Path
from tests.whole_workspace import whole
from tests.test_damaged_files import *
from tests import test_damaged_files as T
PATS = [] or [*T.JSON_FILES, *T.LINE_FILES, *T.OTHER_FILES]
@pytest.mark.timeout(600)
@pytest.mark.parametrize("pattern", PATS)
def test_sweep(whole, tmp_path, pattern):
    out = T.try_changes(whole, tmp_path, pattern, number=20, commands=[*T.LOOKING,*T.WORKING], seed=1)
    with open("/tmp/sweep.out","a") as f:
        for line in out: f.write(line+"\n")
        f.write(f"-- {pattern} {len(out)}\n")
