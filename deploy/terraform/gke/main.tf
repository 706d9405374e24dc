# A private network, a GKE cluster with one pool of CPU machines and one with GPUs, a bucket for models, and the right to
# read it for the server's Kubernetes service account. What runs in the cluster is deploy/kubernetes' or the chart's matter.

resource "google_project_service" "needed" {
  for_each = toset(["compute", "container", "storage"])

  service            = "${each.key}.googleapis.com"
  disable_on_destroy = false
}

# Network: nodes have no address of their own outside; what they fetch goes out through NAT.

resource "google_compute_network" "this" {
  name                    = var.name
  auto_create_subnetworks = false

  depends_on = [google_project_service.needed]
}

resource "google_compute_subnetwork" "nodes" {
  name                     = "${var.name}-nodes"
  network                  = google_compute_network.this.id
  ip_cidr_range            = "10.0.0.0/20"
  private_ip_google_access = true

  secondary_ip_range {
    range_name    = "pods"
    ip_cidr_range = "10.4.0.0/14"
  }

  secondary_ip_range {
    range_name    = "services"
    ip_cidr_range = "10.8.0.0/20"
  }
}

resource "google_compute_router" "this" {
  name    = var.name
  network = google_compute_network.this.id
}

resource "google_compute_router_nat" "this" {
  name                               = var.name
  router                             = google_compute_router.this.name
  nat_ip_allocate_option             = "AUTO_ONLY"
  source_subnetwork_ip_ranges_to_nat = "ALL_SUBNETWORKS_ALL_IP_RANGES"
}

# Cluster

resource "google_service_account" "nodes" {
  account_id   = "${var.name}-nodes"
  display_name = "Nodes of the cluster ${var.name}"
}

resource "google_project_iam_member" "nodes" {
  project = var.project
  role    = "roles/container.defaultNodeServiceAccount"
  member  = google_service_account.nodes.member
}

resource "google_project_iam_member" "images" {
  project = var.project
  role    = "roles/artifactregistry.reader"
  member  = google_service_account.nodes.member
}

resource "google_container_cluster" "this" {
  name     = var.name
  location = var.region

  network    = google_compute_network.this.id
  subnetwork = google_compute_subnetwork.nodes.id

  deletion_protection      = var.deletion_protection
  remove_default_node_pool = true
  initial_node_count       = 1
  datapath_provider        = "ADVANCED_DATAPATH" # enforces NetworkPolicies

  ip_allocation_policy {
    cluster_secondary_range_name  = "pods"
    services_secondary_range_name = "services"
  }

  private_cluster_config {
    enable_private_nodes    = true
    enable_private_endpoint = length(var.admin_cidrs) == 0
    master_ipv4_cidr_block  = "172.16.0.0/28"
  }

  master_authorized_networks_config {
    dynamic "cidr_blocks" {
      for_each = var.admin_cidrs

      content {
        display_name = cidr_blocks.key
        cidr_block   = cidr_blocks.value
      }
    }
  }

  workload_identity_config {
    workload_pool = "${var.project}.svc.id.goog"
  }

  release_channel {
    channel = "REGULAR"
  }

  # The default pool lives for minutes only, and with the rights of the other nodes.
  node_config {
    service_account = google_service_account.nodes.email
    oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]
  }

  lifecycle {
    ignore_changes = [node_config]
  }
}

locals {
  pools = {
    cpu = {
      machine_type = var.cpu_pool.machine_type
      min_nodes    = var.cpu_pool.min_nodes
      max_nodes    = var.cpu_pool.max_nodes
      spot         = false
      gpus         = 0
      labels       = {}
    }
    gpu = {
      machine_type = var.gpu_pool.machine_type
      min_nodes    = 0
      max_nodes    = var.gpu_pool.max_nodes
      spot         = var.gpu_pool.spot
      gpus         = var.gpu_pool.gpus
      labels       = { accelerator = "nvidia" } # deploy/kubernetes/overlays/gpu selects by it
    }
  }
}

resource "google_container_node_pool" "this" {
  for_each = local.pools

  name     = each.key
  cluster  = google_container_cluster.this.id
  location = var.region

  autoscaling {
    total_min_node_count = each.value.min_nodes
    total_max_node_count = each.value.max_nodes
    location_policy      = each.value.gpus > 0 ? "ANY" : "BALANCED"
  }

  management {
    auto_repair  = true
    auto_upgrade = true
  }

  upgrade_settings {
    max_surge       = each.value.gpus > 0 ? 0 : 1
    max_unavailable = each.value.gpus > 0 ? 1 : 0
  }

  node_config {
    machine_type    = each.value.machine_type
    spot            = each.value.spot
    image_type      = "COS_CONTAINERD"
    disk_type       = "pd-balanced"
    disk_size_gb    = 100
    labels          = each.value.labels
    service_account = google_service_account.nodes.email
    oauth_scopes    = ["https://www.googleapis.com/auth/cloud-platform"]

    # GKE taints such nodes with nvidia.com/gpu by itself.
    dynamic "guest_accelerator" {
      for_each = each.value.gpus > 0 ? [each.value.gpus] : []

      content {
        type  = var.gpu_pool.gpu_type
        count = guest_accelerator.value

        gpu_driver_installation_config {
          gpu_driver_version = "LATEST"
        }
      }
    }

    shielded_instance_config {
      enable_secure_boot          = each.value.gpus == 0 # the driver's modules are not signed for it
      enable_integrity_monitoring = true
    }

    workload_metadata_config {
      mode = "GKE_METADATA"
    }
  }
}

# Models

resource "google_storage_bucket" "models" {
  name     = "${var.project}-${var.name}-models"
  location = var.region

  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = !var.deletion_protection

  versioning {
    enabled = true
  }

  lifecycle_rule {
    condition {
      days_since_noncurrent_time = 30
    }

    action {
      type = "Delete"
    }
  }
}

data "google_project" "this" {
  project_id = var.project
}

# The server's Kubernetes service account, by workload identity: it has no key that could be lost.
resource "google_storage_bucket_iam_member" "server" {
  bucket = google_storage_bucket.models.name
  role   = "roles/storage.objectViewer"
  member = "principal://iam.googleapis.com/projects/${data.google_project.this.number}/locations/global/workloadIdentityPools/${var.project}.svc.id.goog/subject/ns/${var.namespace}/sa/serving"

  depends_on = [google_container_cluster.this] # which makes the pool
}
