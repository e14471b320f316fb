#!/bin/sh
# Stands in for node-setup/bin/stage where a test is about the scheduler: a folder
# $BRIDGE_HOME/jobs/<bucket> is the bucket. Files in it steer what happens:
# in.exit, out.exit: end with that code; in.hold, out.hold: wait until it is removed.
set -u
bucket=$BRIDGE_HOME/jobs/$BRIDGE_BUCKET
rundir=$NOMAD_ALLOC_DIR/data/rundir
env >"$bucket/$1.env"
while [ -e "$bucket/$1.hold" ]; do sleep 0.02; done
[ ! -e "$bucket/$1.exit" ] || exit "$(cat "$bucket/$1.exit")"
case $1 in
in) mkdir "$rundir" && cp "$bucket/run.sh" "$rundir" ;;
out) [ ! -d "$rundir" ] || cp -R "$rundir/." "$bucket/results" ;;
esac
