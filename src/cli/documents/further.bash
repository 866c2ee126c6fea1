
_tfwrap_further() {
    local at word
    for ((at = 1; at < COMP_CWORD; at++)); do
        word=${COMP_WORDS[at]}
        case " OPTIONS " in
            *" $word "*)
                # bash may part the option from its value by a word of its own.
                at=$((at + 1))
                [[ ${COMP_WORDS[at]} != "=" ]] || at=$((at + 1))
                continue
                ;;
        esac
        case $word in
            run)
                at=$((at + 1))
                if [[ $at -lt $COMP_CWORD && ${COMP_WORDS[at]} == -- ]]; then
                    at=$((at + 1))
                elif [[ $2 == -* && $at -eq $COMP_CWORD ]]; then
                    break
                fi
                COMPREPLY=()
                if [[ $at -eq $COMP_CWORD ]]; then
                    mapfile -t COMPREPLY < <(compgen -c -- "$2" | sort -u)
                elif declare -F _comp_command_offset >/dev/null; then
                    _comp_command_offset "$at"
                elif declare -F _command_offset >/dev/null; then
                    _command_offset "$at"
                fi
                return
                ;;
            --)
                if [[ $((at + 1)) -eq $COMP_CWORD ]]; then
                    mapfile -t COMPREPLY < <(compgen -W "COMMANDS" -- "$2")
                    return
                fi
                break
                ;;
            -*) ;;
            *) break ;;
        esac
    done
    _tfwrap "$@"
}

if [[ "${BASH_VERSINFO[0]}" -eq 4 && "${BASH_VERSINFO[1]}" -ge 4 || "${BASH_VERSINFO[0]}" -gt 4 ]]; then
    complete -F _tfwrap_further -o nosort -o bashdefault -o default tfwrap
elif [[ "${BASH_VERSINFO[0]}" -eq 4 ]]; then
    complete -F _tfwrap_further -o bashdefault -o default tfwrap
fi
