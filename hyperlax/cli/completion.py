"""Scripts with which a shell completes commands, options, the words that an option takes, and files everywhere else."""

from __future__ import annotations

from collections.abc import Mapping

from hyperlax.cli.parsing import typed_options
from hyperlax.config.option import POSITIONAL, Option

_BASH = """\
_hyperlax() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" command="${{COMP_WORDS[1]}}" option="" i
    for ((i = COMP_CWORD - 1; i > 1; i--)); do
        [[ ${{COMP_WORDS[i]}} == --* ]] && {{ option="${{COMP_WORDS[i]}}"; break; }}
    done
    [[ $word == --* ]] && option=""
    ((COMP_CWORD == 1)) && command="" option=""
    [[ -z $option && -n $command && $word != -* ]] && option=WORDS
    local words=""
    case "$command $option" in
        " ") words="{commands}" ;;
{cases}
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _hyperlax hyperlax
"""


def shell_script(commands: Mapping[str, type], shell: str) -> str:
    """Return the script that "bash", "zsh" or "fish" sources."""
    if shell == "fish":
        return _fish(commands)
    script = _bash(commands)
    return f"autoload -U +X bashcompinit && bashcompinit\n{script}" if shell == "zsh" else script


def _bash(commands: Mapping[str, type]) -> str:
    cases = []
    for command, kind in commands.items():
        options = _flagged(kind)
        if taken := _positional_words(kind):
            cases.append(f'        "{command} WORDS") words="{" ".join(taken)}" ;;')
        cases.append(f'        "{command} ") words="{" ".join(option.flag for option in options)}" ;;')
        cases += [
            f'        "{command} {option.flag}") words="{" ".join(option.offered())}" ;;'
            for option in options
            if option.offered()
        ]
    return _BASH.format(commands=" ".join(commands), cases="\n".join(cases))


def _fish(commands: Mapping[str, type]) -> str:
    lines = [f"complete -c hyperlax -n __fish_use_subcommand -f -a '{' '.join(commands)}'"]
    for command, kind in commands.items():
        if taken := _positional_words(kind):
            lines.append(f"complete -c hyperlax -n '__fish_seen_subcommand_from {command}' -a '{' '.join(taken)}'")
        for option in _flagged(kind):
            takes = (
                "" if option.type is bool else f" -x -a '{' '.join(option.offered())}'" if option.offered() else " -r"
            )
            flag = option.flag.removeprefix("--")
            lines.append(f"complete -c hyperlax -n '__fish_seen_subcommand_from {command}' -l {flag}{takes}")
    return "\n".join(lines) + "\n"


def _positional_words(kind: type) -> list[str]:
    """Return the words that a command takes without a flag."""
    positional = [option for option in typed_options(kind).values() if option.has(POSITIONAL)]
    return [word for option in positional for word in option.offered()]


def _flagged(kind: type) -> list[Option]:
    return [option for option in typed_options(kind).values() if not option.has(POSITIONAL)]
