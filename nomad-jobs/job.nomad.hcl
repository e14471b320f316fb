# The Nomad job that runs one attempt of a bridge job.
#
# You may change this file: copy it, change the copy, and name the copy in the
# setting nomad.job_file. The bridge has Nomad parse it once, keeps the result and
# sets these values for every attempt, whatever stands here:
#
#   job       id, name, region, namespace, node_pool, priority, type
#   group     max_run_duration; constraints on the stage protocol's version and,
#             once the group has enrolled nodes, on their generation
#   stage-in  the BRIDGE_* variables of the job, but not BRIDGE_HOME
#   stage-out the same
#   main      image (where its driver has one), cpu (1000 for each core), memory, the
#             *_NUM_THREADS variables
#
# Keep: one group with count = 1, the three tasks by their names, their lifecycle
# hooks, no restarts, no reschedules and the disconnect block: the bridge itself
# decides about another attempt. `nomad-bridge` says at its start what it misses.
# Nothing that users write is ever put into this text.

job "bridge-job" {
  type        = "batch"
  datacenters = ["*"]

  group "job" {
    count = 1

    restart {
      attempts = 0
      mode     = "fail"
    }

    reschedule {
      attempts  = 0
      unlimited = false
    }

    # A machine that goes away leaves its job "unknown" and goes on with it when it
    # comes back. Nomad must never start a second run by itself, hence 10 years.
    disconnect {
      lost_after = "87600h"
      replace    = false
      reconcile  = "keep_original"
    }

    # Only machines that were set up for the bridge: BRIDGE_HOME is its folder there.
    constraint {
      attribute = "${meta.bridge_home}"
      operator  = "is_set"
    }

    # Counted by the scheduler only, in MB. Raise it if machines run out of disk.
    ephemeral_disk {
      size = 300
    }

    # Bucket -> run directory, and the image into the machine's container engine.
    task "stage-in" {
      driver = "raw_exec"

      lifecycle {
        hook    = "prestart"
        sidecar = false
      }

      config {
        command = "${meta.bridge_home}/bin/stage"
        args    = ["in"]
      }

      env {
        BRIDGE_HOME = "${meta.bridge_home}"
      }

      # A job needs the largest of its tasks, not their sum. A root client enforces the
      # memory: with less, rclone is killed while it moves large files.
      resources {
        cpu    = 50
        memory = 256
      }

      kill_timeout = "30s"

      logs {
        max_files     = 1
        max_file_size = 1
      }
    }

    # The user's program.
    task "main" {
      driver = "docker"

      # The owner of the run directory. Beside rootless Docker, 0:0 in the container
      # is the unprivileged compute user outside. Where the Nomad client runs as root
      # beside rootful Docker, 0:0 is the real root without capabilities: set here,
      # and as `user` of both stage tasks, an unprivileged user of your machines.
      user = "0:0"

      config {
        image      = "set-by-the-bridge:0"
        work_dir   = "/rundir"
        entrypoint = ["/bin/sh"]

        # A second start in a used run directory (the machine was restarted) is
        # refused with code 212. The shell is the container's first process, which
        # gets no signal by default: it passes SIGTERM on to run.sh. The mark `ended`
        # says that nobody ended the container: when its engine is killed, Nomad takes
        # that for code 0, and stage-out tells the difference.
        args = ["-c", <<-ENTRY
          mkdir /alloc/data/.ran || exit 212
          shell=sh
          command -v bash >/dev/null 2>&1 && shell=bash
          "$shell" run.sh >joblog.txt 2>joberr.txt </dev/null &
          job=$! told=
          trap 'told=1; kill -TERM "$job" 2>/dev/null' TERM INT
          wait "$job"
          code=$?
          while kill -0 "$job" 2>/dev/null; do
            wait "$job"
            code=$?
          done
          [ -n "$told" ] || mkdir /alloc/data/.ran/ended 2>/dev/null
          exit "$code"
        ENTRY
        ]

        mount {
          type   = "bind"
          source = "../alloc/data/rundir"
          target = "/rundir"
        }

        # Removed where the setting nomad.network is true: then Docker's own default.
        network_mode = "none"

        cap_drop       = ["all"]
        security_opt   = ["no-new-privileges"]
        pids_limit     = 4096
        cpu_hard_limit = true
      }

      env {
        HOME = "/tmp"
      }

      # Both are set by the bridge. A core counts 1000 MHz, so that no machine is
      # given more cores than it has: let each have cpu_total_compute = 1000 * cores
      # in its client configuration. Pinned `cores` would need a root client.
      resources {
        cpu    = 1000
        memory = 64
      }

      # Between SIGTERM and SIGKILL when the job is canceled or its time is up. A
      # machine's max_kill_timeout cuts it.
      kill_timeout = "30s"

      # Output goes to joblog.txt and joberr.txt in the run directory instead.
      logs {
        disabled      = true
        max_files     = 1
        max_file_size = 1
      }
    }

    # New and changed files -> bucket; also after failure, out of memory and cancel.
    task "stage-out" {
      driver = "raw_exec"

      lifecycle {
        hook    = "poststop"
        sidecar = false
      }

      config {
        command = "${meta.bridge_home}/bin/stage"
        args    = ["out"]
      }

      env {
        BRIDGE_HOME = "${meta.bridge_home}"
      }

      resources {
        cpu    = 50
        memory = 256
      }

      kill_timeout = "30s"

      logs {
        max_files     = 1
        max_file_size = 1
      }
    }
  }
}
