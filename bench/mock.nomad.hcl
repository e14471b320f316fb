# As nomad-jobs/job.nomad.hcl, with tasks that do nothing: the driver mock_driver, which
# only builds of Nomad that are no releases have. A job lasts as long as its node says.

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

    disconnect {
      lost_after = "87600h"
      replace    = false
      reconcile  = "keep_original"
    }

    constraint {
      attribute = "${meta.bridge_home}"
      operator  = "is_set"
    }

    ephemeral_disk {
      size = 10
    }

    task "stage-in" {
      driver = "mock_driver"

      lifecycle {
        hook    = "prestart"
        sidecar = false
      }

      config {
        run_for = "10ms"
      }

      env {
        BRIDGE_HOME = "${meta.bridge_home}"
      }

      resources {
        cpu    = 10
        memory = 16
      }

      logs {
        disabled      = true
        max_files     = 1
        max_file_size = 1
      }
    }

    task "main" {
      driver = "mock_driver"

      config {
        run_for = "${meta.run_for}"
      }

      resources {
        cpu    = 1000
        memory = 16
      }

      logs {
        disabled      = true
        max_files     = 1
        max_file_size = 1
      }
    }

    task "stage-out" {
      driver = "mock_driver"

      lifecycle {
        hook    = "poststop"
        sidecar = false
      }

      config {
        run_for = "10ms"
      }

      env {
        BRIDGE_HOME = "${meta.bridge_home}"
      }

      resources {
        cpu    = 10
        memory = 16
      }

      logs {
        disabled      = true
        max_files     = 1
        max_file_size = 1
      }
    }
  }
}
