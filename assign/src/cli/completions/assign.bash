# Completion of assign for bash 4.4 or newer. For all users:
#   assign completions bash > /usr/share/bash-completion/completions/assign
# For this shell only:
#   source <(assign completions bash)

_assign() {
    local program=$1 line=$COMP_LINE piece kind value about
    local words=() answer=()
    [[ $program == '~/'* ]] && program=$HOME/${program#'~/'}

    # Bash splits words at the colons of addresses: pieces without a blank between are one word. Of
    # the word being typed it replaces the last piece only.
    local at kept=
    for ((at = 0; at <= COMP_CWORD; at++)); do
        piece=${COMP_WORDS[at]}
        if ((at == 0)) || [[ $line == [[:blank:]]* ]]; then
            words+=("$piece")
            kept=
        else
            kept=${words[-1]}
            words[-1]+=$piece
        fi
        [[ $piece == *[:=] ]] && kept=${words[-1]}
        while [[ $line == [[:blank:]]* ]]; do line=${line#?}; done
        line=${line#"$piece"}
    done

    mapfile -t answer < <("$program" __complete -- "${words[@]:1}" 2>/dev/null)
    kind=${answer[0]-}
    COMPREPLY=()
    for value in "${answer[@]:1}"; do
        about=${value#*$'\t'}
        value=${value%%$'\t'*}
        value=${value#"$kept"}
        # When a list is shown, with what each word is; when one is inserted, without.
        if [[ $COMP_TYPE == 63 && -n $about ]] && ((${#answer[@]} > 2)); then
            value+="  ($about)"
        fi
        COMPREPLY+=("$value")
    done
    case $kind in
        files) compopt -o default -o filenames ;;
        folders) compopt -o dirnames -o filenames ;;
    esac
    compopt -o nosort 2>/dev/null
}

complete -F _assign assign
