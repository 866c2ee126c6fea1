# Behind `--` there are Terraform's commands only, and behind `run` there is a command line of its own.
_tfwrap() {
    local -i at=2
    while (( at < CURRENT )); do
        case $words[at] in
            (OPTIONS)
                (( at += 2 ))
                ;;
            (run)
                (( at += 1 ))
                if (( at < CURRENT )) && [[ $words[at] == -- ]]; then
                    (( at += 1 ))
                elif (( at == CURRENT )) && [[ $words[at] == -* ]]; then
                    break
                fi
                words=("${(@)words[at,-1]}")
                (( CURRENT -= at - 1 ))
                _normal
                return
                ;;
            (--)
                (( at += 1 ))
                if (( at == CURRENT )); then
                    local -a listed=(
COMMANDS
                    )
                    _describe -t commands 'terraform command' listed
                    return
                fi
                words=("$words[1]" "${(@)words[at,-1]}")
                (( CURRENT -= at - 2 ))
                break
                ;;
            (-*)
                (( at += 1 ))
                ;;
            (*)
                break
                ;;
        esac
    done
    _tfwrap_itself "$@"
}

