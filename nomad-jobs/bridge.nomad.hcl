# The bridge itself as a Nomad job.
#
#   nomad job run -var host=bridge-1 bridge.nomad.hcl
#
# Before: install nomad-bridge on that machine (the path is the variable `program`), write
# its configuration there, and let `nomad-bridge nomad setup` make namespaces, policies and
# tokens. The machine is one of the operator's own: it holds the bridge's tokens, and in no
# case one that a group brought.
#
# The bridge may stop and start at any time: jobs go on, and so do the machines' uploads.

variable "host" {
  type        = string
  description = "Name of the Nomad node that has the bridge's folder and configuration."
}

variable "node_pool" {
  type        = string
  default     = "default"
  description = "Pool of that node; never a group's pool."
}

variable "namespace" {
  type        = string
  default     = "default"
  description = "Namespace of this job; never a group's namespace."
}

variable "user" {
  type        = string
  default     = "nomad-bridge"
  description = "User that owns the bridge's folder. Not root."
}

variable "program" {
  type        = string
  default     = "/opt/nomad-bridge/bin/nomad-bridge"
  description = "The installed command."
}

variable "config" {
  type        = string
  default     = "/etc/nomad-bridge/config.yaml"
  description = "Its configuration; data_dir and the token files are named there."
}

variable "port" {
  type        = number
  default     = 8080
  description = "Port on the node's address. Put a proxy with TLS in front of it."
}

job "nomad-bridge" {
  type        = "service"
  namespace   = var.namespace
  node_pool   = var.node_pool
  datacenters = ["*"]

  # Of the machines' own jobs the most urgent.
  priority = 80

  group "bridge" {
    # On SQLite one is enough and all there may be: the database is a file on this host. On
    # PostgreSQL remove the constraint and let 2 or 3 run; one of them works the queue, and
    # another takes over when it dies.
    count = 1

    constraint {
      attribute = "${node.unique.name}"
      value     = var.host
    }

    # A new version replaces the old one: two on one SQLite file only wait for each other.
    update {
      max_parallel     = 1
      health_check     = "checks"
      min_healthy_time = "5s"
      healthy_deadline = "2m"
      auto_revert      = true
    }

    restart {
      attempts = 10
      interval = "10m"
      delay    = "5s"
      mode     = "delay"
    }

    network {
      port "http" {
        static = var.port
      }
    }

    service {
      name     = "nomad-bridge"
      provider = "nomad"
      port     = "http"

      # Not /readyz: that fails while the database is away, which a restart of the bridge
      # does not help.
      check {
        type     = "http"
        path     = "/healthz"
        interval = "10s"
        timeout  = "3s"

        check_restart {
          limit = 6
          grace = "60s"
        }
      }
    }

    task "bridge" {
      # Plainly on the host: the bridge reads its configuration and tokens there and starts
      # no program of anybody else's.
      driver = "raw_exec"
      user   = var.user

      config {
        command = var.program
        args    = ["serve", "--config", var.config, "--bind", "${NOMAD_ADDR_http}"]
      }

      # Requests under way are answered, then it ends.
      kill_signal  = "SIGTERM"
      kill_timeout = "30s"

      resources {
        cpu    = 500
        memory = 512
      }

      logs {
        max_files     = 5
        max_file_size = 10
      }
    }
  }
}
