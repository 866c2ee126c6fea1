function __fish_tfwrap_behind_dashes
    contains -- -- (commandline -opc)
end

# What follows `run` is a command line of its own.
function __fish_tfwrap_behind_run
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_tfwrap_global_optspecs) -- $cmd 2>/dev/null
    or return
    set -e argv[1]
    if test "$argv[1]" = --
        set -e argv[1]
    end
    complete --do-complete=(string join ' ' -- (string escape -- $argv) (commandline -ct))
end
complete -c tfwrap -n "__fish_tfwrap_using_subcommand run" -f -a "(__fish_tfwrap_behind_run)"

