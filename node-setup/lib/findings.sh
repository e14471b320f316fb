# shellcheck shell=sh
# Findings of a check: printed for people, kept for the bridge. Sourced.
#
# ok: as it must be · note: works, but should be known · fail: will not work

failed=0

start_findings() { # file
    findings=$1
    mkdir -p "$(dirname "$findings")"
    : >"$findings"
    failed=0
}

finding() { # ok|note|fail what detail [remedy]
    case $1 in
    ok) printf '  ok    %s: %s\n' "$2" "$3" ;;
    note) printf '  note  %s: %s\n' "$2" "$3" ;;
    fail)
        printf '  FAIL  %s: %s\n' "$2" "$3"
        failed=$((failed + 1))
        ;;
    esac
    [ -z "${4:-}" ] || printf '        -> %s\n' "$4"
    printf '%s\t%s\t%s\t%s\n' "$1" "$(one_line "$2")" "$(one_line "$3")" \
        "$(one_line "${4:-}")" >>"$findings"
}

one_line() { # text
    printf '%s' "$1" | tr '\t\n\r' '   ' | cut -c 1-500
}

# All findings as a JSON array.
findings_json() {
    separator=
    printf '['
    tab=$(printf '\t')
    while IFS="$tab" read -r status what detail remedy; do
        ok=true
        [ "$status" != fail ] || ok=false
        printf '%s{"what":%s,"ok":%s,"detail":%s,"remedy":%s}' "$separator" \
            "$(json_string "$what")" "$ok" "$(json_string "$detail")" "$(json_string "$remedy")"
        separator=,
    done <"$findings"
    printf ']'
}
