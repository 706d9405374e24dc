output "models" {
  description = "Where the server finds its models; publish them there."
  value       = "gs://${google_storage_bucket.models.name}"
}

output "credentials" {
  description = "The command that lets kubectl reach the cluster."
  value       = "gcloud container clusters get-credentials ${google_container_cluster.this.name} --region ${var.region} --project ${var.project}"
}
