#!/bin/sh
# get-started.sh: prepares this machine to become a node of a group. Run it as the compute
# user, from the unpacked bundle; nothing here needs root. Twice in a row changes nothing.

set -u
program=get-started.sh
bundle=$(dirname -- "$(readlink -f -- "$0")")

usage() {
    cat <<'END'
usage: sh get-started.sh [options]

  --check              only check this machine; change nothing
  --root-steps         print what root must do once on this machine, and end
  --s3-config FILE     the group's storage: lines S3_SERVER=, S3_ACCESS=, S3_SECRET=
                       (and S3_REGION=, S3_CA=); asked for if neither given nor there
  --from FOLDER        take the downloads from a local folder: needs no network
  --mirror URL         take the downloads from there instead of their makers' sites
  --dir FOLDER         where the node lives; default /data/leruli/nomad
  --name NAME          the node's name; default this machine's name
  --reserve-cores N    cores, MiB of memory and MB of disk that jobs never get
  --reserve-memory MIB
  --reserve-disk MB
  --images-max MB      how much images may take; default half of the folder's disk
  --http-port PORT     the Nomad client's own port on 127.0.0.1; default a free one
  --network-interface NAME   where this machine's network is; default found by itself
  --proxy URL          the site's proxy, and --no-proxy NAMES, names not to be asked there
  --user NAME, --uid N for --root-steps; default leruli, 2013
  --rollback           back to the versions before the last change; again, and forward
END
}

option_value() { # option value…
    if [ "$#" -lt 2 ] || [ -z "$2" ]; then
        echo "$program: $1 needs a value" >&2
        exit 2
    fi
    printf '%s\n' "$2"
}

number_value() { # option value…
    number=$(option_value "$@") || exit 2
    case $number in
    *[!0-9]* | ??????????*)
        echo "$program: $1 needs a whole number" >&2
        exit 2
        ;;
    esac
    printf '%s\n' "$number"
}

# The folder of the time before, where a new bundle is unpacked over an old one.
folder=$(cat "$bundle/.dir" 2>/dev/null)
folder=${NOMAD_BRIDGE_DIR:-${folder:-/data/leruli/nomad}}
user=leruli uid=2013 action=install from='' mirror='' s3_config=''
# What the owner chose, as lines NAME=value; put into etc/options.
chosen=

choose() { # name value
    chosen="$chosen$1=$2
"
}

while [ "$#" -gt 0 ]; do
    case $1 in
    --check | --root-steps | --rollback)
        action=${1#--}
        shift
        continue
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    --reserve-cores | --reserve-memory | --reserve-disk | --images-max | --http-port | --uid)
        value=$(number_value "$@") || exit 2
        ;;
    --*) value=$(option_value "$@") || exit 2 ;;
    *)
        usage >&2
        exit 2
        ;;
    esac
    case $1 in
    --dir) folder=$value ;;
    --from) from=$value ;;
    --mirror) mirror=$value ;;
    --s3-config) s3_config=$value ;;
    --user) user=$value ;;
    --uid) uid=$value ;;
    --name) choose NODE_NAME "$value" ;;
    --reserve-cores) choose RESERVE_CORES "$value" ;;
    --reserve-memory) choose RESERVE_MEMORY_MB "$value" ;;
    --reserve-disk) choose RESERVE_DISK_MB "$value" ;;
    --images-max) choose IMAGES_MAX_MB "$value" ;;
    --http-port) choose HTTP_PORT "$value" ;;
    --network-interface) choose NETWORK_INTERFACE "$value" ;;
    --proxy)
        choose HTTP_PROXY "$value"
        choose HTTPS_PROXY "$value"
        ;;
    --no-proxy) choose NO_PROXY "$value" ;;
    *)
        usage >&2
        exit 2
        ;;
    esac
    shift 2
done

# shellcheck source-path=SCRIPTDIR source=lib/node.sh
. "$bundle/lib/node.sh"
use_dir "$folder"
# shellcheck source-path=SCRIPTDIR source=lib/findings.sh
. "$bundle/lib/findings.sh"
# shellcheck source-path=SCRIPTDIR source=lib/http.sh
. "$bundle/lib/http.sh"
# shellcheck source-path=SCRIPTDIR source=lib/preflight.sh
. "$bundle/lib/preflight.sh"
# shellcheck source-path=SCRIPTDIR source=lib/root-steps.sh
. "$bundle/lib/root-steps.sh"
# shellcheck source-path=SCRIPTDIR source=lib/downloads.sh
. "$bundle/lib/downloads.sh"
# shellcheck source-path=SCRIPTDIR source=lib/engine.sh
. "$bundle/lib/engine.sh"
# shellcheck source-path=SCRIPTDIR source=lib/storage-test.sh
. "$bundle/lib/storage-test.sh"
# shellcheck source-path=SCRIPTDIR source=lib/setup.sh
. "$bundle/lib/setup.sh"

case $action in
root-steps) root_steps ;;
rollback)
    roll_back
    say "It serves from the next start on: $dir/run.sh --restart"
    ;;
check) check ;;
install) set_up ;;
esac
