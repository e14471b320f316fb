# shellcheck shell=sh
# The bridge by HTTP, with curl. Sourced after node.sh.
#
# Secrets reach curl by its standard input and by files of mode 0600, never as
# arguments, which everybody on the machine can see.

# shellcheck disable=SC2154  # set by node.sh

# A text as a JSON string. Control characters become spaces.
json_string() { # text
    printf '"%s"' "$(printf '%s' "$1" | tr '\000-\037' ' ' | sed 's/[\\"]/\\&/g')"
}

# A text or number field of a flat JSON object. Only for answers of the bridge.
json_field() { # name file
    tr -d '\n' <"$2" | sed -n \
        -e "s/.*\"$1\"[[:space:]]*:[[:space:]]*\"\(\([^\"\\\\]\|\\\\.\)*\)\".*/\1/p" \
        -e "t" \
        -e "s/.*\"$1\"[[:space:]]*:[[:space:]]*\([0-9a-z.-]*\).*/\1/p" |
        sed -e 's/^null$//' -e 's/\\\(["\\/]\)/\1/g'
}

# Call the bridge with the compute secret. The answer goes to `answer`, a file, and its
# status to http_status; fails unless that is 2xx, with `problem` as a sentence.
call_bridge() { # method path body-file [accept]
    answer=$tmp/answer
    mkdir -p "$tmp"
    rm -f "$answer" "$tmp/curl.log"
    http_status=$(
        {
            printf 'url = "%s%s"\nrequest = "%s"\n' "$bridge_url" "$2" "$1"
            printf 'header = "Authorization: Bearer %s"\n' "$compute_secret"
            printf 'header = "X-Group-Token: %s"\n' "$group_token"
            printf 'header = "Accept: %s"\n' "${4:-application/json}"
            [ -z "$3" ] || printf 'header = "Content-Type: application/json"\ndata-binary = "@%s"\n' "$3"
            [ ! -s "$etc/bridge-ca.pem" ] || printf 'cacert = "%s/bridge-ca.pem"\n' "$etc"
        } | run_curl --output "$answer" --write-out '%{http_code}' --max-time 60 2>"$tmp/curl.log"
    )
    curl_code=$?
    if [ "$curl_code" -ne 0 ]; then
        problem="The bridge at $bridge_url cannot be reached: $(curl_trouble "$curl_code")"
        return 1
    fi
    case $http_status in
    2??) return 0 ;;
    esac
    problem=$(json_field detail "$answer")
    problem="${problem:-The bridge answered with status $http_status}"
    hint=$(json_field hint "$answer")
    [ -z "$hint" ] || problem="$problem ($hint)"
    return 1
}

# Curl with its settings from standard input, and of the environment only the proxies.
run_curl() { # arguments…
    set -- curl --disable --silent --show-error --connect-timeout 10 "$@" --config -
    for name in HTTP_PROXY HTTPS_PROXY NO_PROXY; do
        value=$(option "$name")
        # Curl knows the lower-case names for all of them.
        [ -z "$value" ] || set -- "$(echo "$name" | tr '[:upper:]' '[:lower:]')=$value" "$@"
    done
    env -i "PATH=$PATH" "HOME=$HOME" "$@"
}

# Why curl failed, for people.
curl_trouble() { # curl's exit code
    case $1 in
    5) echo "the name of the proxy is not known" ;;
    6) echo "its name is not known; ask for the machine's DNS, or correct BRIDGE_URL" ;;
    7) echo "nothing answers there; a firewall, or the bridge is away" ;;
    28) echo "no answer in time; a firewall, or the bridge is away" ;;
    35) echo "it does not speak TLS; is BRIDGE_URL right?" ;;
    60) echo "its certificate is not one this machine trusts; the bundle should carry its CA" ;;
    *) tail -n 1 "$tmp/curl.log" | cut -c 1-200 ;;
    esac
}

# How far this machine's clock is ahead of the bridge's, in seconds; nothing if unknown.
clock_skew() {
    date_there=$(
        {
            printf 'url = "%s/healthz"\n' "$bridge_url"
            [ ! -s "$etc/bridge-ca.pem" ] || printf 'cacert = "%s/bridge-ca.pem"\n' "$etc"
        } | run_curl --head --max-time 20 2>/dev/null | sed -n 's/^[Dd]ate: //p' | tr -d '\r'
    )
    there=$(date --date "${date_there:-?}" +%s 2>/dev/null) || return 0
    echo $(($(date +%s) - there))
}
