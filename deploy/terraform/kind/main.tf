# A cluster in containers on this machine, with model_repo/ of the checkout inside, to try deploy/kubernetes or the chart.

terraform {
  required_version = ">= 1.5"

  required_providers {
    kind = {
      source  = "tehcyx/kind"
      version = "~> 0.9"
    }
  }
}

variable "name" {
  description = "Name of the cluster."
  type        = string
  default     = "serving"
}

variable "models" {
  description = "Directory on this machine that the nodes see as /models."
  type        = string
  default     = "../../../model_repo"
}

variable "workers" {
  description = "Nodes for pods."
  type        = number
  default     = 2
}

resource "kind_cluster" "this" {
  name           = var.name
  wait_for_ready = true

  kind_config {
    kind        = "Cluster"
    api_version = "kind.x-k8s.io/v1alpha4"

    networking {
      api_server_address = "127.0.0.1"
    }

    node {
      role = "control-plane"
    }

    dynamic "node" {
      for_each = range(var.workers)

      content {
        role = "worker"

        extra_mounts {
          host_path      = abspath(var.models)
          container_path = "/models"
          read_only      = true
        }
      }
    }
  }
}

output "kubeconfig" {
  description = "File that lets kubectl reach the cluster."
  value       = kind_cluster.this.kubeconfig_path
}
