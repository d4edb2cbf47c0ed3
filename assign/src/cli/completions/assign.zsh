#compdef assign
# Completion of assign for zsh. For all users, into a folder of fpath:
#   assign completions zsh > /usr/local/share/zsh/site-functions/_assign
# For this shell only:
#   source <(assign completions zsh)

_assign() {
    local -a answer values shown
    local line value about program=${(Q)words[1]/#\~\//$HOME/}
    answer=("${(@f)$($program __complete -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    for line in "${(@)answer[2,-1]}"; do
        value=${line%%$'\t'*}
        about=${line#*$'\t'}
        values+=("$value")
        shown+=("${value}${about:+  -- $about}")
    done
    (( $#values )) && compadd -l -V assign -d shown -a values
    case ${answer[1]-} in
        files) _files ;;
        folders) _files -/ ;;
        *) (( $#values )) ;;
    esac
}

if [[ $funcstack[1] == _assign ]]; then
    _assign "$@"
else
    compdef _assign assign
fi
