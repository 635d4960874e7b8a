"""Completion of the shell commands in bash: a script generated from the parser, so that both always agree.

The script completes job ids by reading JOBS_DIR with bash alone; it starts no Python, so Tab answers at once.
`cancel`, `pause` and `continue` complete jobs that have not ended, `resume` those that can be resumed.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from shlex import join, quote

from syncworker.jobs.store import Jobs
from syncworker.model import FINAL_STATES, RESUMABLE_STATES, State
from syncworker.paths import PROJECT
from syncworker.settings import Settings
from syncworker.shell import arguments
from syncworker.shell.display import Output
from syncworker.shell.messages import printed

_NOT_ENDED = tuple(state.value for state in State if state not in FINAL_STATES)
_STATES = {
    "cancel": (*_NOT_ENDED, State.WAITING.value),
    **dict.fromkeys(("pause", "continue", "limit"), _NOT_ENDED),
    "approve": (State.WAITING.value,),
    "plan": (State.WAITING.value,),
    "run": (State.QUEUED.value,),
    "resume": tuple(state.value for state in State if state in RESUMABLE_STATES),
}

_SCRIPT = """\
# Bash completion of `python -m syncworker`, made by its command `completion`. It also makes a function
# `syncworker`, which does the same from any folder (-P: no module of that folder is taken for one of ours).
syncworker() { PYTHONPATH=@PROJECT@ @PYTHON@ -P -m syncworker "$@"; }

# The ids of the jobs whose recorded state is one of these; of all without any.
_syncworker_ids() {
    local file state
    for file in @JOBS@/????????T??????-????????.json; do
        [[ -e $file ]] || continue
        if (($#)); then
            while read -r state; do [[ $state == '"state": '* ]] && break; done <"$file"
            state=${state#'"state": '}
            [[ " $* " == *" ${state//[^a-z]/} "* ]] || continue
        fi
        file=${file##*/}
        echo "${file%.json}"
    done 2>/dev/null
}

# _syncworker FIRST: the word at FIRST is the command, or is to be.
_syncworker() {
    local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[$1]-}
    local words=
    COMPREPLY=()
    if ((COMP_CWORD <= $1)); then
        words=@COMMANDS@
    else
        case "$command $before" in
@VALUES@        *) case $command in
@OPTIONS@        esac ;;
        esac
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}

_syncworker_folders() {
    local found
    compopt -o filenames 2>/dev/null
    mapfile -t COMPREPLY < <(compgen -d -- @UPLOADS@/"$1")
    for found in "${!COMPREPLY[@]}"; do COMPREPLY[found]=${COMPREPLY[found]#@UPLOADS@/}; done
}

_syncworker_alone() { _syncworker 1; }

# Whatever else a Python is to run is left to the completion of Python itself, where there is one.
_syncworker_python() {
    if [[ ${COMP_WORDS[1]-} == -m && ${COMP_WORDS[2]-} == syncworker ]] && ((COMP_CWORD > 2)); then
        _syncworker 3
        return
    fi
    declare -F _python >/dev/null || ! declare -F _completion_loader >/dev/null || _completion_loader python
    _syncworker_register
    ! declare -F _python >/dev/null || _python "$@"
}

_syncworker_register() {
    complete -o bashdefault -o default -F _syncworker_python python python3 @PYTHONS@
    complete -F _syncworker_alone syncworker
}
_syncworker_register
"""


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Reads private attributes: argparse has no public way; shtab and argcomplete read the same."""
    [action] = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(action.choices)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from (name for name in action.option_strings if name.startswith("--"))


def _values(name: str, parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Yields (option, shell code that completes its value) for each option that takes a value."""
    for action in parser._actions:
        for option in action.option_strings:
            if action.choices:
                yield f"{name} {option}", f"words={quote(' '.join(map(str, action.choices)))}"
            elif option == "--source":
                yield f"{name} {option}", '_syncworker_folders "$current"; return'
            elif action.nargs != 0:
                yield f"{name} {option}", "return"


def _words(name: str, parser: argparse.ArgumentParser) -> str:
    """Returns the words that may follow a command: its options and the values of its argument."""
    words = " ".join(_options(parser))
    for action in parser._actions:
        if action.dest == "id" or (name == "limit" and action.dest == "job"):
            words += f" $({' '.join(['_syncworker_ids', *_STATES.get(name, ())])})"
        elif not action.option_strings and action.choices:
            words += f" {' '.join(map(str, action.choices))}"
    return f'words="{words}"'


def _cases(pairs: Iterable[tuple[str, str]], indent: str) -> str:
    return "".join(f'{indent}"{pattern}") {code} ;;\n' for pattern, code in pairs)


def bash(settings: Settings, python: str) -> str:
    """Returns the script. `python`: the interpreter that the function `syncworker` runs."""
    parser = arguments.parser()
    commands = _subparsers(parser)
    values = [pair for name, command in commands.items() for pair in _values(name, command)]
    options = [(name, _words(name, command)) for name, command in commands.items()]
    spellings = (".venv/bin/python", "./.venv/bin/python", python)
    fields = {
        "PROJECT": quote(PROJECT),
        "PYTHON": quote(python),
        "PYTHONS": join(dict.fromkeys(spellings)),
        "JOBS": quote(settings.jobs_dir),
        "UPLOADS": quote(settings.uploads_dir),
        "COMMANDS": quote(" ".join([*commands, *_options(parser)])),
        "VALUES": _cases(values, " " * 8),
        "OPTIONS": _cases(options, " " * 12),
    }
    return re.sub(r"@([A-Z]+)@", lambda match: fields[match[1]], _SCRIPT)


def completion(_arguments: argparse.Namespace, settings: Settings, _jobs: Jobs) -> int:
    return printed(Output(sys.stdout), bash(settings, sys.executable).rstrip())
