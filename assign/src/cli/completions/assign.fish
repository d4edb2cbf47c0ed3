# Completion of assign for fish. For all users:
#   assign completions fish > /usr/share/fish/vendor_completions.d/assign.fish
# For this shell only:
#   assign completions fish | source

function __assign_complete
    set -l typed (commandline -opc)
    set -l word (commandline -ct)
    set -l program $typed[1]
    set -l answer ($program __complete -- $typed[2..-1] $word 2>/dev/null)
    set -l kind $answer[1]
    set -e answer[1]
    printf '%s\n' $answer
    switch $kind
        case files
            __fish_complete_path $word
        case folders
            __fish_complete_directories $word
    end
end

complete -c assign -f -k -a '(__assign_complete)'
