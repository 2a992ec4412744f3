"""The completion of bash, without the package bash-completion, so that it works wherever there is bash 3.2."""

from collections.abc import Iterable, Sequence

from tools.reference.words import DIRECTORY, FILE, PROFILE, Option, Value, Words

HEAD = """\
# Completion of openme for bash. Made by `make reference` from the commands themselves.

# Whatever the profiles are called, their names are data: no word list, which bash would expand.
_openme_profiles() {
    local name
    local -a file=()
    [ -z "$client_config" ] || file=(--client-config "${client_config/#\\~\\//$HOME/}")
    while IFS= read -r name; do
        [[ $name != "$current"* ]] || COMPREPLY+=("$(printf %q "$name")")
    done < <(command openme ${file[@]+"${file[@]}"} profiles --names 2>/dev/null)
}

_openme_offer() {
    local word
    case $1 in
    profile)
        _openme_profiles
        return
        ;;
    file) set -- -f ;;
    directory) set -- -d ;;
    *) set -- -W "$1" ;;
    esac
    [ "$1" = -W ] || compopt -o filenames 2>/dev/null
    while IFS= read -r word; do
        COMPREPLY+=("$word")
    done < <(compgen "$@" -- "$current")
}

_openme() {
    local word before='' command='' client_config='' options value takes_value place=0 at
    local current=${COMP_WORDS[COMP_CWORD]}
    COMPREPLY=()
    for ((at = 1; at < COMP_CWORD; at++)); do
        word=${COMP_WORDS[at]}
        [ "$word" != = ] || continue
        if [ -n "$before" ]; then
            [ "$before" != --client-config ] || client_config=$word
            before=''
            continue
        fi
        case $word in
        -*)
            _openme_value "$command" "$word"
            [ -z "$takes_value" ] || before=$word
            ;;
        *) if [ -z "$command" ]; then command=$word; else place=$((place + 1)); fi ;;
        esac
    done
    if [ -n "$before" ]; then
        [ "$current" != = ] || current=''
        _openme_value "$command" "$before"
        _openme_offer "$value"
        return
    fi
    if [[ $current == -* ]]; then
        _openme_options "$command"
        _openme_offer "$options"
        return
    fi
    if [ -z "$command" ]; then
        _openme_offer '@COMMANDS@'
        return
    fi
    _openme_argument "$command" "$place"
    _openme_offer "$value"
}

"""


def bash(common: Sequence[Option], commands: Sequence[Words]) -> str:
    """The whole file."""
    names = [words.command.name for words in commands]
    lines = [HEAD.replace("@COMMANDS@", " ".join(names)) + "_openme_options() {", "    case $1 in"]
    lines += [f"    {words.command.name}) options='{_all_names(words.options)}' ;;" for words in commands]
    lines += [f"    *) options='{_all_names(common)}' ;;", "    esac", "}", ""]

    lines += ["_openme_value() {", "    takes_value=yes value=''", "    case $1:$2 in"]
    shared = {name: option.value for option in common if option.value for name in option.names}
    lines += [f"    *:{name}) value='{_kind(value)}' ;;" for name, value in shared.items()]
    for words in commands:
        lines += [
            f"    {words.command.name}:{name}) value='{_kind(option.value)}' ;;"
            for option in words.options
            if option.value is not None
            for name in option.names
            if name not in shared
        ]
    lines += ["    *) takes_value='' ;;", "    esac", "}", ""]

    lines += ["_openme_argument() {", "    value=''", "    case $1:$2 in"]
    for words in commands:
        for place, argument in enumerate(words.arguments):
            if kind := _kind(argument.value):
                where = "*" if argument.repeats else str(place)
                lines.append(f"    {words.command.name}:{where}) value='{kind}' ;;")
    lines += ["    esac", "}", "", "complete -F _openme openme"]
    return "\n".join(lines) + "\n"


def _all_names(options: Iterable[Option]) -> str:
    return " ".join(name for option in options for name in option.names)


def _kind(value: Value) -> str:
    if value.words:
        return " ".join(value.words)
    return value.kind if value.kind in {FILE, DIRECTORY, PROFILE} else ""
