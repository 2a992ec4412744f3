"""The completion of zsh: `_arguments` of its own system (zshcompsys(1))."""

from collections.abc import Sequence

from tools.reference.words import DIRECTORY, FILE, PROFILE, Argument, Option, Value, Words

HEAD = """\
#compdef openme
# Completion of openme for zsh. Made by `make reference` from the commands themselves.

_openme_profiles() {
    local -a file names
    local place=${words[${words[(i)--client-config]} + 1]:-${words[(r)--client-config=*]#*=}}
    place=${place:-$openme_client_config}
    if [[ -n $place ]]; then
        place=${(Q)place}
        file=(--client-config ${place/#\\~\\//$HOME/})
    fi
    names=(${(f)"$(command openme $file profiles --names 2>/dev/null)"})
    (( $#names )) && compadd -V profiles -a names
}

_openme() {
    local curcontext=$curcontext state line openme_client_config
    typeset -A opt_args
"""
TAIL = """\
    esac
}

if [[ $funcstack[1] == _openme ]]; then
    _openme "$@"
else
    compdef _openme openme
fi
"""


def zsh(common: Sequence[Option], commands: Sequence[Words]) -> str:
    """The whole file."""
    lines = [HEAD, "    local -a commands=("]
    lines += [f"        {_quoted(f'{w.command.name}:{w.command.help}')}" for w in commands]
    lines += ["    )", "    _arguments -C -A '-*' \\"]
    lines += [f"        {_option(option)} \\" for option in common]
    lines += ["        '1: :->command' \\", "        '*:: :->arguments' && return 0", ""]
    lines += [
        "    if [[ $state == command ]]; then",
        "        _describe -t commands 'command' commands",
        "        return",
        "    fi",
    ]
    lines += ["    openme_client_config=${opt_args[--client-config]}", "    case $words[1] in"]
    for words in commands:
        specs = [*map(_option, words.options), *(_argument(n, a) for n, a in enumerate(words.arguments, 1))]
        lines += [f"    {words.command.name})", "        _arguments \\"]
        lines += [f"            {spec} \\" for spec in specs[:-1]]
        lines += [f"            {specs[-1]}", "        ;;"]
    return "\n".join(lines) + "\n" + TAIL


def _option(option: Option) -> str:
    told = f"[{_escaped(option.help)}]"
    if option.value is not None:
        told += f":{_escaped(option.value.name)}:{_action(option.value)}"
    without = sorted({*option.names, *option.excludes})
    is_long = option.value is not None
    forms = [
        _quoted(f"({' '.join(without)}){name}{'=' * (is_long and name.startswith('--'))}{told}")
        for name in option.names
    ]
    return " ".join(forms)


def _argument(place: int, argument: Argument) -> str:
    where = "*" if argument.repeats else str(place)
    optional = ":" if argument.nargs == "?" else ""
    return _quoted(f"{where}:{optional}{_escaped(argument.help)}:{_action(argument.value)}")


def _action(value: Value) -> str:
    if value.words:
        return f"({' '.join(value.words)})"
    return {FILE: "_files", DIRECTORY: "_files -/", PROFILE: "_openme_profiles"}.get(value.kind or "", " ")


def _escaped(text: str) -> str:
    """As it may stand between the brackets and colons of a specification."""
    for character in "\\[]:":
        text = text.replace(character, f"\\{character}")
    return text


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
