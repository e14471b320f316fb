#!/bin/sh
# run.sh: joins this machine to its group, and everything its owner does with it later.
# Run it as the compute user, after get-started.sh.

set -u
program=run.sh
home=$(dirname -- "$(readlink -f -- "$0")")

usage() {
    cat <<'END'
usage: sh run.sh [--dir FOLDER] [option]

  (none)       join, and stay: prints the log, comes back with the reason if it fails.
               Control-C leaves the node; jobs that run go on, and it takes them up again
  --install    join under systemd: goes on after logout and starts at boot
  --status     how this node is
  --check      the self-test, again
  --pause      take no more jobs; those that run go on
  --resume     take jobs again
  --restart    start again, for example after get-started.sh brought other versions; jobs go on
  --leave      take no more jobs, wait for those that run (--within SECONDS: at most so
               long), then end; run.sh joins again
  --forget     after --leave, or on a copied disk: join as another node from now on
  --keep       the hardware changed, but it is the same machine
  --uninstall  leave at once and remove everything (--yes: do not ask)
  --units      print the units for sites that run it under the system's systemd

END
}

folder='' action=join within='' yes=''
while [ "$#" -gt 0 ]; do
    case $1 in
    --dir | --within)
        if [ "$#" -lt 2 ] || [ -z "$2" ]; then
            echo "$program: $1 needs a value" >&2
            exit 2
        fi
        if [ "$1" = --dir ]; then folder=$2; else within=$2; fi
        shift 2
        ;;
    --install | --status | --check | --pause | --resume | --restart | --leave | --forget | \
        --keep | --uninstall | --units)
        action=${1#--}
        shift
        ;;
    --yes)
        yes=1
        shift
        ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        usage >&2
        exit 2
        ;;
    esac
done

# In the bundle's folder this is only a door to the node's own copy; there, the node's
# folder is two above.
case $home in
*/versions/node-*) [ -n "$folder" ] || folder=${home%/versions/node-*} ;;
*)
    [ -n "$folder" ] || folder=${NOMAD_BRIDGE_DIR:-}
    [ -n "$folder" ] || folder=$(cat "$home/.dir" 2>/dev/null)
    folder=${folder:-/data/leruli/nomad}
    ;;
esac
# shellcheck source-path=SCRIPTDIR source=lib/node.sh
. "$home/lib/node.sh"
use_dir "$folder"
[ -x "$dir/bin/node-client" ] || die "$dir is not set up: run get-started.sh first"
home=$dir/current/node
# shellcheck source-path=SCRIPTDIR source=lib/http.sh
. "$home/lib/http.sh"
# shellcheck source-path=SCRIPTDIR source=lib/engine.sh
. "$home/lib/engine.sh"
# shellcheck source-path=SCRIPTDIR source=lib/enrol.sh
. "$home/lib/enrol.sh"
# shellcheck source-path=SCRIPTDIR source=lib/client.sh
. "$home/lib/client.sh"
# shellcheck source-path=SCRIPTDIR source=lib/units.sh
. "$home/lib/units.sh"
# shellcheck source-path=SCRIPTDIR source=lib/control.sh
. "$home/lib/control.sh"
[ "$(id -u)" -ne 0 ] || die "Run this as the compute user, not as root"
mkdir -p "$tmp" "$log" "$var/locks"
is_number "${within:-0}" || die "--within needs a number of seconds"
"do_$action"
