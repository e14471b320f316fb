# shellcheck shell=sh
# The self-test of the whole way: a job through the bridge, pinned to this node. Sourced
# by bin/selftest. The job is hidden from the group's members, and charged to nobody.

# shellcheck disable=SC2154  # set by bin/selftest and what it sources

JOIN_TEST_LIMIT=180

test_join() {
    say "Testing a job through the bridge"
    read_node_conf
    name=$(node_name)
    skew=$(clock_skew)
    if [ -n "$skew" ]; then
        if [ "$skew" -gt 60 ] || [ "$skew" -lt -60 ]; then
            finding fail clock "$skew s ahead of the bridge's" "As root: timedatectl set-ntp true"
        else
            finding ok clock "within $(echo "$skew" | tr -d -) s of the bridge's"
        fi
    fi
    import_image || return
    make_test_bucket || return
    run_test_job
    remove_test_bucket
}

run_test_job() {
    mkdir "$scratch/job"
    canary=$(cat /proc/sys/kernel/random/uuid)
    echo "$canary" >"$scratch/job/in.txt"
    # shellcheck disable=SC2016  # for the shell in the container
    printf '%s\n' 'umask 077' 'mkdir out' 'cat in.txt >out/result.txt' 'echo done' >"$scratch/job/run.sh"
    tar --create --gzip --file="$scratch/run.tgz" --directory="$scratch/job" in.txt run.sh
    if ! s3 copyto "$scratch/run.tgz" "s3:$test_bucket/run.tgz"; then
        finding fail "test job" "its input cannot be written: $(s3_trouble)" "selftest storage"
        return
    fi
    printf '{"group_token":%s,"bucket_id":"%s"}\n' "$(json_string "$group_token")" "$test_bucket" \
        >"$scratch/body"
    # Nomad needs some seconds until it shows a node that has just joined.
    wait_until 30 ask_for_test_job
    case $http_status in
    2??) ;;
    *)
        finding fail "test job" "$problem" "See $dir/run.sh --status"
        return
        ;;
    esac
    job=$(json_field id "$answer")
    began=$(date +%s)
    job_state=
    wait_until "$JOIN_TEST_LIMIT" test_job_is_over || {
        finding fail "test job" \
            "not over after $JOIN_TEST_LIMIT s (${job_state:-no answer}${job_reason:+: $job_reason})" \
            "Look for this node at its group's admin: nomad-bridge nodes show $name"
        return
    }
    if [ "$job_state" != completed ]; then
        finding fail "test job" "$job_state: ${job_reason:-no reason given}" "See $log/nomad.log"
        return
    fi
    if ! s3 cat "s3:$test_bucket/out/result.txt" || [ "$(cat "$scratch/s3.out")" != "$canary" ] ||
        ! s3 cat "s3:$test_bucket/joblog.txt" || [ "$(cat "$scratch/s3.out")" != "done" ]; then
        finding fail "test job" "it completed, but its results are not what it wrote" \
            "Tell who runs the bridge"
        return
    fi
    finding ok "test job" "its results were in the storage after $(($(date +%s) - began)) s"
}

# Whether the bridge has decided.
ask_for_test_job() {
    call_bridge POST "/v1/nodes/$name/selftest" "$scratch/body" && return
    case $http_status in
    000 | 409 | 429 | 503) return 1 ;;
    esac
}

test_job_is_over() {
    call_bridge GET "/v1/nodes/$name/selftest/$job" '' || return 1
    job_state=$(json_field state "$answer")
    job_reason=$(json_field reason "$answer")
    case $job_state in
    completed | failed | canceled) return 0 ;;
    esac
    return 1
}

# What was found, for the group's admins.
report() {
    all_ok=true
    [ "$failed" -eq 0 ] || all_ok=false
    printf '{"group_token":%s,"ok":%s,"findings":%s}\n' "$(json_string "$group_token")" "$all_ok" \
        "$(findings_json)" >"$scratch/body"
    call_bridge POST "/v1/nodes/$name/report" "$scratch/body" ||
        warn "The findings could not be told to the bridge: $problem"
}
