variable "project" {
  description = "The Google Cloud project that pays."
  type        = string
}

variable "region" {
  description = "Where the cluster and the models are."
  type        = string
  default     = "europe-west4"
}

variable "name" {
  description = "Name of the cluster, and the start of the names of what belongs to it."
  type        = string
  default     = "serving"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,24}$", var.name))
    error_message = "At most 25 small letters, digits and dashes, the first a letter."
  }
}

variable "namespace" {
  description = "Kubernetes namespace of the server, whose service account may read the models."
  type        = string
  default     = "serving"
}

variable "admin_cidrs" {
  description = "Networks from which the cluster's API may be reached: name -> CIDR. None: from nowhere outside."
  type        = map(string)
  default     = {}
}

variable "cpu_pool" {
  description = "Machines for servers without a GPU."
  type = object({
    machine_type = optional(string, "c3-standard-4")
    min_nodes    = optional(number, 1)
    max_nodes    = optional(number, 4)
  })
  default = {}
}

variable "gpu_pool" {
  description = "Machines with GPUs. Without servers that want one there are none, and none is paid for."
  type = object({
    machine_type = optional(string, "g2-standard-8")
    gpu_type     = optional(string, "nvidia-l4")
    gpus         = optional(number, 1)
    max_nodes    = optional(number, 2)
    spot         = optional(bool, false)
  })
  default = {}
}

variable "deletion_protection" {
  description = "Whether `terraform destroy` refuses to delete the cluster and a bucket that has models in it."
  type        = bool
  default     = true
}
