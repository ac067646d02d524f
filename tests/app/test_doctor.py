"""`pipeline doctor`: what it finds, what it says about it, and how it ends."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from pipeline.app.doctor import requirements
from pipeline.app.doctor.check import Check, describe_error
from pipeline.app.doctor.devices import Driver, check_gpu, read_driver
from pipeline.app.doctor.importing import Imported, try_groups
from pipeline.app.doctor.machine import (
    check_cache,
    check_cores,
    check_disk,
    check_memory,
    check_settings,
    write_rate,
)
from pipeline.app.doctor.network import (
    check_certificates,
    check_names,
    check_proxies,
    hosts_of_the_blog,
)
from pipeline.app.doctor.packages import (
    PURPOSES,
    check_packages,
    check_python,
    import_installed,
    module_of,
    wanted_requirements,
)
from pipeline.app.doctor.programs import Ran, check_airflow, check_img2dataset, check_java
from pipeline.app.doctor.requirements import (
    declared_requirements,
    installed_version,
    normalized,
    parse_requirement,
)

ROOT = Path(__file__).parents[2]
DOCTOR = [sys.executable, "-m", "pipeline", "doctor", "--host", "localhost"]
TORCH = {"cuda": "12.8", "devices": [{"name": "H200", "bytes": 150e9, "capability": "9.0"}]}


def run_doctor(
    workspace: Path, *, stubs: Path | None = None, **environment: str
) -> tuple[int, dict[str, Any], dict[str, dict[str, Any]]]:
    """Exit code, report and checks by name, with `stubs` in front of the installed packages."""
    paths = [str(each) for each in (stubs, ROOT) if each]
    done = subprocess.run(
        [*DOCTOR, "--json", "--workspace", str(workspace)],
        env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    return done.returncode, report, {c["name"]: c for c in report["details"]["checks"]}


def write_module(folder: Path, name: str, code: str) -> None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / name / "__init__.py").write_text(code)


def light_stubs(folder: Path) -> Path:
    """Empty modules in front of all packages that are slow to import and that doctor does not use."""
    for name in ("transformers", "deepspeed", "webdataset", "pandas", "aiohttp", "ray", "s3fs"):
        write_module(folder, name, "")
    write_module(
        folder,
        "torch",
        "class version: cuda = '12'\nget_num_threads = int\nclass cuda: device_count = int\n",
    )
    return folder


def write_program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


# --- The command ---------------------------------------------------------------------------------


def test_a_whole_environment_passes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    code, report, checks = run_doctor(tmp_path / "not/yet/there")
    assert (code, report["stage"], report["outcome"]) == (0, "doctor", "done")
    assert list(tmp_path.iterdir()) == []
    assert sum(report["counts"].values()) == len(checks)
    assert checks["disk"]["facts"]["folder"] == str(tmp_path)
    assert checks["disk"]["facts"]["bytes_per_s"] > 0
    assert checks["torch"]["state"] == checks["aiohttp"]["state"] == "ok"
    assert checks["aiohttp"]["facts"]["version"] == installed_version("aiohttp")
    assert checks["name of localhost"]["found"] in ("127.0.0.1", "::1")


def test_broken_packages_are_bad_with_their_error_in_one_line(tmp_path: Path) -> None:
    stubs = light_stubs(tmp_path / "stubs")
    write_module(stubs, "torch", "raise OSError('libcudart.so.12:\\n  cannot open shared object')")
    write_module(stubs, "pandas", "import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    write_module(stubs, "aiohttp", "raise SystemExit(5)")
    code, report, checks = run_doctor(tmp_path, stubs=stubs)
    assert (code, report["outcome"]) == (1, "damaged")
    assert checks["torch"]["state"] == "bad"
    assert checks["torch"]["found"].endswith(
        ", but OSError: libcudart.so.12: cannot open shared object"
    )
    assert checks["torch"]["advice"].startswith("Reinstall it with: pip install --force-reinstall")
    assert checks["pandas"]["found"].endswith(", but importing it killed Python with SIGILL")
    assert checks["aiohttp"]["found"].endswith(", but SystemExit: 5")
    assert checks["pyarrow"]["state"] == "ok", "the next ones are still checked"


def test_a_broken_package_that_only_an_option_uses_does_not_fail_the_command(
    tmp_path: Path,
) -> None:
    stubs = light_stubs(tmp_path / "stubs")
    write_module(stubs, "ray", "raise ImportError('no _raylet')")
    code, report, checks = run_doctor(tmp_path, stubs=stubs)
    assert (code, report["outcome"], report["counts"]["bad"] >= 1) == (0, "done", True)
    assert (checks["ray"]["state"], checks["ray"]["needed"]) == ("bad", False)


def test_lines_for_people_say_what_to_fix_first(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    done = subprocess.run(
        [*DOCTOR, "--workspace", str(file / "data")],
        env={**os.environ, "PYTHONPATH": f"{light_stubs(tmp_path / 'stubs')}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"  bad      disk: {file} can't be written to: Not a directory. Give" in done.stdout
    assert re.search(r"^  ok       Python: 3\.\d+\.\d+, ", done.stdout, re.MULTILINE)
    assert re.search(r"^\d+ ok, \d+ missing, \d+ bad$", done.stdout, re.MULTILINE)
    assert done.stderr == "Error: Fix first: disk.\n"


# --- Packages ------------------------------------------------------------------------------------


def importer(results: Mapping[str, Imported]) -> Mapping[str, Imported]:
    """Results for every package; those that are not given are not installed."""
    everything = import_installed(
        lambda groups: {name: Imported(missing=True) for group in groups for name in group}
    )
    return {**everything, **results}


def find(checks: list[Check], name: str) -> Check:
    (check,) = [each for each in checks if each.name == name]
    return check


def test_without_extras_their_packages_are_missing_and_the_lines_name_the_extra() -> None:
    checks = check_packages(importer({}), lambda _name: None)
    torch, ray, numpy = (find(checks, name) for name in ("torch", "ray", "numpy"))
    assert torch.line() == (
        "  missing  torch: not installed; for all stages after dedupe. "
        "Install it with: pip install 'dalle-pipeline[train]'"
    )
    assert ray.advice == "Install it with: pip install 'dalle-pipeline[ray]'"
    assert (torch.fails, ray.fails, numpy.fails) == (False, False, True)
    assert numpy.advice == "Install it with: pip install 'dalle-pipeline'"
    assert find(checks, "uvloop").state == "missing"


@pytest.mark.parametrize(
    ("version", "imported", "state", "found"),
    [
        ("2.13.0+cpu", Imported(), "ok", "2.13.0+cpu"),
        ("2.12.1", Imported(), "ok", "2.12.1 (tested with 2.13.0)"),
        ("2.5.9", Imported(), "bad", "2.5.9, but >=2.6,<3 is needed"),
        ("3.0", Imported(), "bad", "3.0, but >=2.6,<3 is needed"),
        ("2.13.0", Imported(missing=True, error="x"), "bad", "2.13.0, but its files are missing"),
        ("unknown", Imported(), "ok", "unknown (tested with 2.13.0)"),
        (None, Imported(), "ok", "importable, but not installed by pip (tested with 2.13.0)"),
        (None, Imported(error="OSError: x"), "bad", "no version, but OSError: x"),
    ],
)
def test_a_package_is_judged_by_its_version_and_its_import(
    version: str | None, imported: Imported, state: str, found: str
) -> None:
    check = find(check_packages(importer({"torch": imported}), lambda _name: version), "torch")
    assert (check.state, check.found) == (state, found)


@pytest.mark.parametrize(
    ("text", "name", "extra", "versions", "conditional"),
    [
        ("torch<3,>=2.6; extra == 'train'", "torch", "train", "<3,>=2.6", False),
        ("uvloop>=0.21; sys_platform != 'win32'", "uvloop", None, ">=0.21", True),
        ("backports.zstd>=1.0 ; (python_version < '3.14') and extra == \"encodings\"",
         "backports.zstd", "encodings", ">=1.0", True),
        ("moto[s3]>=5.0", "moto", None, ">=5.0", False),
        ("pandas-stubs", "pandas-stubs", None, "", False),
    ],
)  # fmt: skip
def test_requirements_are_read_from_metadata(
    text: str, name: str, extra: str | None, versions: str, conditional: bool
) -> None:
    found = parse_requirement(text)
    assert (found.name, found.extra, found.versions) == (name, extra, versions)
    assert found.conditional is conditional


def test_every_extra_for_users_has_a_purpose_and_every_package_a_module() -> None:
    declared = declared_requirements()
    extras = {each.extra for each in declared} - {None, "dev", "airflow"}
    assert extras == set(PURPOSES)
    used = [each.name for each in declared if each.extra is None or each.extra in PURPOSES]
    installed = [name for name in used if installed_version(name)]
    assert [name for name in installed if find_spec(module_of(name)) is None] == []
    assert {"aiohttp", "torch"} <= set(installed)


def test_a_package_of_several_extras_is_one_line_with_the_extra_that_is_meant() -> None:
    texts = ["torch>=2.6; extra == 'clip'", "torch>=2.6; extra == 'train'", "numpy>=2.0",
             "backports-zstd>=1.0; (python_version < '3.14') and extra == 'dev'",
             "backports-zstd>=1.0; (python_version < '3.14') and extra == 'encodings'"]  # fmt: skip
    found = wanted_requirements(parse_requirement(text) for text in texts)
    assert [(each.name, each.extra) for each in found] == [
        ("numpy", None),
        ("torch", "train"),
        ("backports-zstd", "encodings"),
    ]
    assert [module_of(each.name) for each in found] == ["numpy", "torch", "backports.zstd"]


def test_every_used_package_has_a_tested_version() -> None:
    tested = requirements.tested_versions()
    used = {each.name for each in declared_requirements() if each.extra in (None, "train")}
    assert {name for name in used if normalized(name) not in tested} == set()


def test_an_installed_wheel_is_read_without_a_checkout(tmp_path: Path) -> None:
    assert {each.name for each in declared_requirements(tmp_path)} >= {"aiohttp", "numpy"}


def test_a_hanging_import_ends_and_the_others_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_module(tmp_path, "hangs", "import time; time.sleep(600)")
    write_module(tmp_path, "prints", 'print(\'{"name": "x"}\')')
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = try_groups([["hangs", "prints"], ["no_such_module"]], timeout_s=10)
    assert found["hangs"].error == "importing it took longer than 10 s"
    assert found["prints"] == Imported()
    assert found["no_such_module"].missing
    assert set(found) == {"hangs", "prints", "no_such_module"}


@pytest.mark.parametrize(
    ("version", "state", "advice"),
    [
        ((3, 10, 14), "bad", "Python 3.11 or newer is needed"),
        ((3, 11, 7), "ok", ""),
        ((3, 13, 0), "ok", ""),
        ((3, 14, 2), "ok", "Tested with Python 3.11 to 3.13"),
    ],
)
def test_the_version_of_python(version: tuple[int, int, int], state: str, advice: str) -> None:
    check = check_python(version)
    assert (check.state, check.advice) == (state, advice)
    assert check.found.startswith(".".join(map(str, version)))


# --- The machine ---------------------------------------------------------------------------------


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


@pytest.mark.parametrize(
    ("cpuinfo", "bf16"),
    [
        ("flags\t: fpu avx512f avx512_bf16 amx_tile\n", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("flags\t: fpu avx2 avx512f\n", False),
        (None, None),
    ],
)
def test_cores_and_their_bf16(tmp_path: Path, cpuinfo: str | None, bf16: bool | None) -> None:
    if cpuinfo is not None:
        write(tmp_path, "proc/cpuinfo", cpuinfo)
    check = check_cores(tmp_path)
    assert (check.state, check.facts["bf16"], check.facts["limit"]) == ("ok", bf16, None)
    assert check.facts["cores"] == len(os.sched_getaffinity(0))
    assert ("use fp32" in check.advice) == (bf16 is False)


def test_limits_of_a_container_are_shown(tmp_path: Path) -> None:
    write(tmp_path, "sys/fs/cgroup/cpu.max", "150000 100000\n")
    write(tmp_path, "sys/fs/cgroup/memory.max", "2000000000\n")
    write(tmp_path, "proc/meminfo", "MemTotal:  16000000 kB\nMemAvailable:  8000000 kB\n")
    assert check_cores(tmp_path).facts["limit"] == 1.5
    memory = check_memory(tmp_path)
    assert memory.facts == {
        "bytes": 16_384_000_000,
        "available": 8_192_000_000,
        "limit": 2_000_000_000,
    }
    assert memory.found == "16.4 GB in all, 8.2 GB available, limited to 2.0 GB by the container"


def test_control_groups_of_version_1_are_read(tmp_path: Path) -> None:
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n")
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    write(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", "123\n")
    assert check_cores(tmp_path).facts["limit"] == 0.5
    assert check_memory(tmp_path).facts["limit"] == 123
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    assert check_cores(tmp_path).facts["limit"] is None


def test_a_nearly_full_disk_is_bad_and_gets_no_write(tmp_path: Path) -> None:
    def refuse(_folder: Path) -> float:
        raise AssertionError

    check = check_disk(tmp_path / "data", refuse, free=400_000_000)
    assert (check.fails, check.found) == (True, f"0.4 GB free in {tmp_path}")


def test_a_disk_that_fills_or_refuses_is_bad_with_its_reason(tmp_path: Path) -> None:
    def fill(_folder: Path) -> float:
        raise OSError(28, "No space left on device")

    check = check_disk(tmp_path, fill, free=10**12)
    assert check.fails
    assert check.found == f"{tmp_path} can't be written to: No space left on device"


def test_the_write_rate_stops_after_half_a_second_or_64_mib(tmp_path: Path) -> None:
    times = iter([0.0, 0.3, 0.6])
    assert write_rate(tmp_path, lambda: next(times)) == pytest.approx(2 * 2**20 / 0.6)
    instants = iter(range(65))
    assert write_rate(tmp_path, lambda: next(instants) / 1000) == pytest.approx(2**26 / 0.064)
    assert list(tmp_path.iterdir()) == []


def test_a_home_that_is_no_folder_leaves_no_cache(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    check = check_cache(lambda: tmp_path / "home/.cache/dalle-pipeline")
    assert (check.state, check.fails) == ("bad", False)
    assert check.found.endswith("can't be written to: Not a directory")
    assert check.advice == "Set XDG_CACHE_HOME to a folder of your own"


def test_settings_show_names_of_options_but_no_values() -> None:
    environment = {"PIPELINE_PROXY": "http://u:secret@p", "OMP_NUM_THREADS": "4", "HOME": "/x"}
    assert check_settings(environment).found == "OMP_NUM_THREADS=4, PIPELINE_PROXY"
    assert check_settings({}).found == "none set"


# --- GPU -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("driver", "torch", "state", "found"),
    [
        (Driver(), Imported(), "missing", "none found; for training"),
        (Driver(), Imported(facts=TORCH), "ok", "H200 (150 GB, sm 9.0); CUDA of torch: 12.8"),
        (Driver(gpus=("H200, 143771 MiB, 570.1",)), Imported(facts=TORCH), "ok",
         "H200 (150 GB, sm 9.0); CUDA of torch: 12.8; driver: 570.1"),
        (Driver(gpus=("H200, 143771 MiB, 570.1",)), Imported(missing=True, error="x"), "ok",
         "H200, 143771 MiB, 570.1 (by the driver; torch is not there"),
        (Driver(gpus=("H200, 143771 MiB, 570.1",)), Imported(), "bad",
         "H200, 143771 MiB, 570.1, but torch 2.13.0 is built for CPUs"),
        (Driver(gpus=("H200, 143771 MiB, 470.1",)), Imported(facts={"cuda": "12.8"}), "bad",
         "H200, 143771 MiB, 470.1, but torch 2.13.0 for CUDA 12.8 can't use it"),
        (Driver(error="Failed to initialize NVML"), Imported(), "bad", "Failed to initialize NVML"),
    ],
)  # fmt: skip
def test_driver_and_torch_are_compared(
    driver: Driver, torch: Imported, state: str, found: str
) -> None:
    check = check_gpu(driver, torch, "2.13.0")
    assert check.state == state
    assert check.found.startswith(found)
    assert not check.fails


def test_the_answer_of_the_driver() -> None:
    assert read_driver(None) == Driver()
    two = read_driver(Ran(code=0, output="A, 1 MiB, 5\nB, 2 MiB, 5\n"))
    assert two.gpus == ("A, 1 MiB, 5", "B, 2 MiB, 5")
    assert read_driver(Ran(code=18, output="NVML: mismatch\n")).error == "NVML: mismatch"
    assert read_driver(Ran(code=9, output="")).error == "nvidia-smi ended with exit code 9"


# --- Network -------------------------------------------------------------------------------------


def test_proxies_are_shown_without_their_passwords() -> None:
    environment = {"https_proxy": "http://user:secret@proxy.test:3128", "no_proxy": "intern.test"}
    check = check_proxies(environment)
    assert check.found == "https through http://proxy.test:3128; not for intern.test"
    assert check_proxies({}).found == "none"


def test_a_proxy_that_cannot_be_used_is_bad() -> None:
    check = check_proxies({"https_proxy": "socks5://u:secret@proxy.test"})
    assert check.fails
    assert check.found.startswith("HTTPS_PROXY is ")
    assert "secret" not in check.line()


def test_names_are_resolved_but_their_servers_get_no_request() -> None:
    assert hosts_of_the_blog() == ("openai.com", "cdn.openai.com")
    addresses = {"a.test": "192.0.2.1"}

    def resolve(host: str) -> str:
        if host not in addresses:
            raise OSError(-2, "Name or service not known")
        return addresses[host]

    hosts = ("a.test", "b.test")
    found, lost = check_names(hosts, has_proxy=False, resolve=resolve)
    assert (found.state, found.found) == ("ok", "192.0.2.1")
    assert (lost.state, lost.found, lost.fails) == ("bad", "Name or service not known", False)
    behind = check_names(hosts, has_proxy=True, resolve=resolve)[1]
    assert (behind.state, behind.found) == ("ok", "not resolved here; the proxy will do it")


def test_a_name_server_that_is_silent_is_not_waited_for() -> None:
    over = threading.Event()

    def resolve(_host: str) -> str:
        over.wait()
        return "late"

    (check,) = check_names(["a.test"], has_proxy=False, resolve=resolve, timeout_s=0.1)
    over.set()
    assert (check.state, check.found) == ("bad", "not resolved within 0.1 s")


def test_certificates_of_a_file_that_is_gone_are_bad(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")
    assert check_certificates({"SSL_CERT_FILE": str(tmp_path / "ca.pem")}).state == "ok"
    check = check_certificates({"SSL_CERT_FILE": "/nowhere.pem"})
    assert (check.state, check.found) == (
        "bad",
        "SSL_CERT_FILE is /nowhere.pem, which doesn't exist",
    )


# --- Other programs ------------------------------------------------------------------------------


def test_java_is_that_of_java_home_or_of_the_path(tmp_path: Path) -> None:
    java = write_program(tmp_path / "jre/bin/java", "echo 'openjdk version \"17\"' >&2")
    for environment in ({"JAVA_HOME": str(tmp_path / "jre")}, {"PATH": str(java.parent)}):
        check = check_java(environment)
        assert (check.state, check.found) == ("ok", f'openjdk version "17", {java}')
    assert check_java({"PATH": str(tmp_path)}).state == "missing"
    wrong = check_java({"JAVA_HOME": str(tmp_path)})
    assert (wrong.state, wrong.fails) == ("bad", False)
    write_program(java, "echo 'Unable to locate a Java Runtime.'; exit 1")
    assert check_java({"PATH": str(java.parent)}).found.endswith("Unable to locate a Java Runtime.")


def test_img2dataset_is_imported_by_its_own_interpreter(tmp_path: Path) -> None:
    python = write_program(tmp_path / "python", "echo warning >&2; echo '1.47.0, Python 3.11.7'")
    check = check_img2dataset(python)
    assert (check.state, check.found) == ("ok", f"1.47.0, Python 3.11.7, {python}")
    without = check_img2dataset(Path(sys.executable))
    assert without.state == "bad"
    assert "No module named 'img2dataset'" in without.found or "not found" in without.found
    assert check_img2dataset(Path("/nowhere/python")).found == "there is no /nowhere/python"
    assert check_img2dataset(None).state == "missing"


def test_airflow_is_found_with_the_version_beside_it(tmp_path: Path) -> None:
    program = write_program(tmp_path / "env/bin/airflow", "exit 1")
    packages = tmp_path / "env/lib/python3.11/site-packages"
    packages.joinpath("apache_airflow-3.3.1.dist-info").mkdir(parents=True)
    environment = {"PATH": str(program.parent)}
    check = check_airflow(environment, tmp_path)
    assert (check.state, check.found) == ("ok", f"3.3.1, {program}")
    packages.joinpath("apache_airflow-3.3.1.dist-info").rename(
        packages / "apache_airflow-2.9.dist-info"
    )
    old = check_airflow(environment, tmp_path)
    assert (old.state, old.found) == ("bad", f"2.9, {program}, but the DAGs need >=3.3,<4")
    assert check_airflow({"PATH": "/nowhere"}, tmp_path).state == "missing"


def test_an_error_becomes_one_short_line() -> None:
    assert describe_error(ValueError("a\n  b")) == "ValueError: a b"
    assert describe_error(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert len(describe_error(ValueError("x" * 1000))) == 201
