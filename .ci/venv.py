"""Make .venv from requirements.txt, whole or not at all: python .ci/venv.py (what `make` does first)."""
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
# GB: at the end .venv holds 6.7, while it is made 9.9 with the fetched wheels, and pip keeps 2.8 of these in its cache
SPACE = 13


def missing(version, has_venv, free):
    "The one line that says what has to be there first; None where nothing is missing."
    name = f"python{version[0]}.{version[1]}"
    if version < OLDEST:
        return f"synthnb needs Python 3.11 or newer, not {name}: apt install python3.11 python3.11-venv"
    if not has_venv: return f"{name} cannot make virtual environments: apt install {name}-venv"
    if free < SPACE:
        return (
            f"synthnb's packages (CUDA build of torch) need {SPACE} GB of disk, {free:.1f} GB are free: make room or "
            f"clone elsewhere")
    return None


def progress(venv, total, seconds, used):
    "Where the installation stands, as one line."
    log = (venv / "pip.log").read_text(errors="replace")
    fetched = min(total,
        len(set(re.findall(r"^ *(?:Downloading|Using cached|Processing) (\S+\.whl)(?= |$)", log, re.M))))
    installed = min(total, len(list(venv.glob("lib/python*/site-packages/*.dist-info"))))
    return f"installing {total} packages: {fetched} fetched, {installed} installed, {used:.1f} GB, {seconds:.0f} s"


def pip(venv, total, *arguments):
    "Run pip with its output in a file, and show where it stands: every second on a terminal, every 20 s elsewhere."
    (venv / "tmp").mkdir(exist_ok=True)  # wheels are unpacked here, as /tmp is often small
    env = {**os.environ, "TMPDIR": str(venv / "tmp"), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    start, free, shown, terminal = time.monotonic(), shutil.disk_usage(venv).free, 0.0, sys.stdout.isatty()
    with open(venv / "pip.log", "a") as log:
        process = subprocess.Popen([venv / "bin" / "python", "-m", "pip", "install", "--no-input", *arguments],
            stdout=log, stderr=log, env=env, cwd=ROOT)
    try:
        while process.poll() is None:
            time.sleep(0.2)
            seconds = time.monotonic() - start
            if seconds - shown < (1 if terminal else 20): continue
            shown = seconds
            line = progress(venv, total, seconds, max(0, free - shutil.disk_usage(venv).free) / 1e9)
            print(f"\r{line}" if terminal else line, end="" if terminal else "\n", flush=True)
    finally:
        process.kill()
        process.wait()
        if terminal and shown: print()
    if process.returncode == 0: return
    errors = [line for line in (venv / "pip.log").read_text(errors="replace").splitlines() if line.startswith("ERROR")]
    sys.exit("\n".join([*errors[:5], "the packages could not be installed; nothing was left behind, run make again"]))


def main():
    venv, pins = ROOT / ".venv", (ROOT / "requirements.txt").read_text()
    if (venv / "ready").exists() and (venv / "ready").read_text() == pins: return (venv / "ready").touch()
    free = shutil.disk_usage(ROOT).free / 1e9
    # it is made anew
    if venv.exists(): free += sum(f.lstat().st_size for f in venv.rglob("*") if not f.is_symlink()) / 1e9
    lack = missing(sys.version_info[:2],
        bool(importlib.util.find_spec("ensurepip") and importlib.util.find_spec("venv")), free)
    if lack: sys.exit(lack)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    start = time.monotonic()
    try:
        shutil.rmtree(venv, ignore_errors=True)
        print(f"making .venv with Python {sys.version.split()[0]}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True, stdout=subprocess.DEVNULL)
        total = pins.count("==") + 1
        pip(venv, total, "--no-compile", "-r", "requirements.txt")
        print("compiling them on all cores", flush=True)
        compiled = [venv / "bin" / "python", "-m", "compileall", "-q", "-j", "0",
            *venv.glob("lib/python*/site-packages")]
        # on all cores, which pip does on one; files that are no Python of this version stay as they are
        subprocess.run(compiled, stdout=subprocess.DEVNULL)
        pip(venv, total, "--no-deps", "--no-build-isolation", "-e", ".")
        shutil.rmtree(venv / "tmp")
        (venv / "ready").write_text(pins)
    except BaseException:
        shutil.rmtree(venv, ignore_errors=True)
        raise
    print(f".venv stands after {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    try: main()
    except KeyboardInterrupt: sys.exit("stopped; nothing was left behind")
    except subprocess.CalledProcessError as e: sys.exit(f"no virtual environment could be made: {e}")
