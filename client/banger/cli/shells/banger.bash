# bash completion for banger. What there is to complete, `banger __complete` knows.

_banger() {
  local line=${COMP_LINE:0:COMP_POINT} before word joined= head= prefix= files=no sep=$'\x1f' tab=$'\t'
  local -a words=() found=()
  local i
  COMPREPLY=()
  # bash breaks words at = and : too. What no space divides is one word.
  for ((i = 0; i <= COMP_CWORD; i++)); do
    before=${line%%[![:space:]]*}
    line=${line#"$before"}
    word=${COMP_WORDS[i]}
    ((i < COMP_CWORD)) || word=$line
    line=${line#"$word"}
    if [[ -n $before || $i -eq 0 || ($i -eq COMP_CWORD && -z $word && ${COMP_LINE:COMP_POINT-1:1} == [[:space:]]) ]]; then
      words+=("$word")
    else
      words[${#words[@]} - 1]+=$word
    fi
  done
  joined=${words[${#words[@]} - 1]}
  # What stands before the last break is there already, and is not to be said again.
  for ((i = ${#joined}; i > 0; i--)); do
    if [[ ${joined:i-1:1} == [=:] && $COMP_WORDBREAKS == *"${joined:i-1:1}"* ]]; then
      head=${joined:0:i}
      break
    fi
  done
  local asked=
  for word in "${words[@]:1}"; do asked+=$word$sep; done
  while IFS= read -r line; do
    case $line in
      "$sep"begin) found=() ;;
      "${sep}prefix$tab"*) prefix=${line#*"$tab"} ;;
      "$sep"files) files=yes ;;
      "$sep"*) ;;
      ?*) found+=("$prefix${line%%"$tab"*}") ;;
    esac
  done < <(CYCLOPTS_COMPLETION_WORDS=$asked command banger __complete 2>/dev/null)
  for word in "${found[@]}"; do
    [[ $word == "$joined"* ]] || continue
    [[ $word != *[:=/] ]] || compopt -o nospace
    word=${word#"$head"}
    # Nothing in a name is anything to the shell.
    [[ $word == *[!A-Za-z0-9_./:=@%+,-]* ]] && printf -v word %q "$word"
    COMPREPLY+=("$word")
  done
  if [[ $files == yes ]]; then
    compopt -o filenames
    if [[ ${#COMPREPLY[@]} -eq 0 && -z $head ]]; then
      compopt -o default # readline's own way, which knows about quotes
    else
      while IFS= read -r word; do COMPREPLY+=("${word#"${head#"$prefix"}"}"); done < <(compgen -f -- "${joined#"$prefix"}")
    fi
  fi
}

complete -F _banger banger
