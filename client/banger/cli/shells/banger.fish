# fish completion for banger. What there is to complete, `banger __complete` knows.

function __banger_complete
    set -l sep \x1f
    set -l tokens (commandline -opc) (commandline -ct)
    set -lx CYCLOPTS_COMPLETION_WORDS (string join '' -- $tokens[2..]$sep)
    set -l prefix ''
    set -l begun no
    for line in (command banger __complete 2>/dev/null)
        if test "$line" = "$sep"begin
            set begun yes
        else if test $begun = no -o -z "$line"
            continue
        else if string match -q -- "$sep"prefix\t'*' $line
            set prefix (string split -m 1 \t -- $line)[2]
        else if test "$line" = "$sep"files
            __fish_complete_path (string replace -- $prefix '' (commandline -ct)) | string replace -r '^' -- $prefix
        else if not string match -q -- "$sep*" $line
            echo -- $prefix$line
        end
    end
end

complete -c banger -f -a '(__banger_complete)'
