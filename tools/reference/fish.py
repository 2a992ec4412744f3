"""The completion of fish: one `complete` a word, in the shell's own terms (complete(1))."""

from collections.abc import Sequence

from tools.reference.words import DIRECTORY, FILE, PROFILE, Option, Value, Words

from openme.cli.commands import COMMANDS

HEAD = """\
# Completion of openme for fish. Made by `make reference` from the commands themselves.

function __openme_words --description 'the words so far without options and their values; the command is the first'
    set -l words (commandline -opc)
    set -l takes_value VALUES
    set -l skip 0
    for word in $words[2..-1]
        if test $skip = 1
            set skip 0
        else if contains -- $word $takes_value
            set skip 1
        else if not string match -q -- '-*' $word
            echo -- $word
        end
    end
end

function __openme_command --description 'whether no command was given yet, or this one, with COUNT words after it'
    set -l words (__openme_words)
    if test "$argv[1]" = ''
        test (count $words) = 0
        return
    end
    test (count $words) -gt 0; and test "$words[1]" = "$argv[1]"; or return 1
    test (count $argv) = 1; and return
    test (math (count $words) - 1) -ge $argv[2]; and test (math (count $words) - 1) -le $argv[3]
end

function __openme_profiles --description 'the profiles of the file that the line names'
    set -l words (commandline -opc)
    set -l file
    for at in (seq 2 (count $words))
        if test "$words[$at]" = --client-config
            set file --client-config (string replace -r '^~/' "$HOME/" -- $words[(math $at + 1)])
        else if string match -q -- '--client-config=*' $words[$at]
            set -l place (string replace -- --client-config= '' $words[$at])
            set file --client-config (string replace -r '^~/' "$HOME/" -- $place)
        end
    end
    command openme $file profiles --names 2>/dev/null
end

complete -c openme -f
"""


def fish(common: Sequence[Option], commands: Sequence[Words]) -> str:
    """The whole file."""
    values = {name for words in commands for option in words.options if option.value for name in option.names}
    lines = [HEAD.replace("VALUES", " ".join(sorted(values)))]
    lines += [
        f"complete -c openme -n '__openme_command \"\"' -a {command.name} -d {_quoted(command.help)}"
        for command in COMMANDS
    ]
    lines += [f"complete -c openme -n '__openme_command \"\"' {_option(option)}" for option in common]
    for words in commands:
        name = words.command.name
        lines += [f"complete -c openme -n '__openme_command {name}' {_option(option)}" for option in words.options]
        for place, argument in enumerate(words.arguments):
            last = 1000 if argument.repeats else place
            if told := _words(argument.value):
                lines.append(f"complete -c openme -n '__openme_command {name} {place} {last}' {told}")
    return "\n".join(lines) + "\n"


def _option(option: Option) -> str:
    names = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names]
    if option.value is not None:
        names.append(f"-r {_words(option.value)}".rstrip())
    return f"{' '.join(names)} -d {_quoted(option.help)}"


def _words(value: Value) -> str:
    if value.words:
        return f"-a '{' '.join(value.words)}'"
    return {FILE: "-F", DIRECTORY: "-a '(__fish_complete_directories)'", PROFILE: "-k -a '(__openme_profiles)'"}.get(
        value.kind or "", ""
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
