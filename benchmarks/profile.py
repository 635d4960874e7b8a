"""Where the time of ours goes, by py-spy: `python -m benchmarks.profile SCENARIO [--scale S]`.

SCENARIO is one of `python -m benchmarks list` that is a race against the stub. Prints the functions that were
running most often (self), and by module; results/profile-SCENARIO.txt has the same.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter

from benchmarks import contenders, measure, trees
from benchmarks.contenders import BIN, Target
from benchmarks.races import RACES, Nothing, Upload, stub
from benchmarks.results import FOLDER, Options

_TOP = 25
_WAITING = {
    "concurrent/futures/thread.py: _worker",
    "threading.py: Condition.wait",
    "threading.py: wait",
    "selectors.py: EpollSelector.select",
    "selectors.py: select",
}
_FRAME = re.compile(r"(?P<function>.*) \((?P<file>[^:)]*)(:(?P<line>\d+))?\)$")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile")
    parser.add_argument("scenario", choices=[name for name, race in RACES.items() if race.store == "stub"])
    parser.add_argument("--scale", type=float, default=1.0)
    arguments = parser.parse_args()
    race, options = RACES[arguments.scenario], Options(1, arguments.scale)
    contenders.forget_jobs()
    if isinstance(race, Upload):
        big = race.file_size >= 1 << 20
        tree = (
            trees.large(race.files, options.times(race.file_size >> 20, 16))
            if big
            else trees.small(options.times(race.files, 100), race.file_size)
        )
        bucket, times = "profiled", 1
    else:
        assert isinstance(race, Nothing)
        files = options.times(race.files, 1500)
        tree, bucket, times = trees.same(files), f"keys-{files}-delay-{race.delay_ms}-p", 2
    raw = trees.work_folder() / "profile.raw"
    with stub() as running:
        where = Target(running.url, running.access_key, running.secret_key, bucket, tree)
        command = contenders.our_command(where)
        spy = [str(BIN / "py-spy"), "record", "--rate", "500", "--format", "raw", "--output", str(raw)]
        for turn in range(times):  # where an index is used, the first makes it
            last = turn == times - 1
            cost = measure.run([*spy, "--", *command] if last else command, contenders.our_environment(where))
    text = _read(raw.read_text())
    text = f"{race.title}, scale {options.scale:g}: {cost.wall:.2f} s under py-spy\n\n{text}"
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"profile-{race.name}.txt").write_text(text)
    print(text)


def _read(raw: str) -> str:
    """The functions that ran most often. Waiting threads are left out: py-spy takes some for busy."""
    functions: Counter[str] = Counter()
    modules: Counter[str] = Counter()
    within: Counter[str] = Counter()
    total = 0
    for line in raw.splitlines():
        stack, _, number = line.rpartition(" ")
        frames = [_named(frame) for frame in stack.split(";")]
        if frames[-1] in _WAITING:
            continue
        samples = int(number)
        total += samples
        functions[frames[-1]] += samples
        modules[frames[-1].split(":")[0]] += samples
        for frame in set(frames):
            within[frame] += samples
    lines = [f"{total} samples", "", "  self  within  function"]
    for name, count in functions.most_common(_TOP):
        lines.append(f"{count / total:6.1%} {within[name] / total:7.1%}  {name}")
    lines += ["", "  self  module"]
    lines += [f"{count / total:6.1%}  {name}" for name, count in modules.most_common(15)]
    return "\n".join(lines) + "\n"


def _named(frame: str) -> str:
    match = _FRAME.match(frame)
    if match is None:
        return frame
    return f"{match['file'].split('site-packages/')[-1]}: {match['function']}"


if __name__ == "__main__":
    main()
