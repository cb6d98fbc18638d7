#compdef banger
# zsh completion for banger. What there is to complete, `banger __complete` knows.

_banger() {
  local line value help prefix= files=no sep=$'\x1f' asked= word
  local -a plain shown open openshown
  for word in "${(@Q)words[2,CURRENT-1]}"; do asked+=$word$sep; done
  asked+=${(Q)PREFIX}$sep
  while IFS= read -r line; do
    case $line in
      (${sep}begin) plain=() shown=() open=() openshown=() ;;
      (${sep}prefix$'\t'*) prefix=${line#*$'\t'} ;;
      (${sep}files) files=yes ;;
      ($sep*) ;;
      (?*)
        value=${line%%$'\t'*} help=
        [[ $line != *$'\t'* ]] || help=" -- ${line#*$'\t'}"
        if [[ $value == *[:=/] ]]; then
          open+=($value) openshown+=($value$help)
        else
          plain+=($value) shown+=($value$help)
        fi
        ;;
    esac
  done < <(CYCLOPTS_COMPLETION_WORDS=$asked command banger __complete 2>/dev/null)
  [[ -z $prefix ]] || compset -P 1 "${(b)prefix}"
  (( ! $#plain )) || compadd -l -d shown -a plain
  (( ! $#open )) || compadd -S '' -l -d openshown -a open
  if [[ $files == yes ]]; then _files; fi
}

if [[ $funcstack[1] == _banger ]]; then
  _banger "$@"
else
  compdef _banger banger
fi
