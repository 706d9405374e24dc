# The images by name: docker buildx bake -f deploy/docker-bake.hcl [cpu] [tensorflow] [gpu] [trainers]
#
# For both architectures, with a bill of materials and a record of the build, to a registry:
#
#   REGISTRY=registry.example.com/ml/ TAG=0.1.0 docker buildx bake -f deploy/docker-bake.hcl release --push

variable "REGISTRY" {
  default = ""
}

variable "TAG" {
  default = "local"
}

variable "REVISION" {
  default = "unknown"
}

variable "CREATED" {
  default = "unknown"
}

variable "SOURCE" {
  default = "unknown"
}

group "default" {
  targets = ["cpu"]
}

group "release" {
  targets = ["cpu-release", "tensorflow-release", "gpu-release", "trainers-release"]
}

target "common" {
  context    = "."
  dockerfile = "deploy/Dockerfile"
  args = {
    VERSION  = TAG
    REVISION = REVISION
    CREATED  = CREATED
    SOURCE   = SOURCE
  }
}

target "cpu" {
  inherits = ["common"]
  target   = "server"
  args     = { EXTRAS = "cpu,remote" }
  tags     = ["${REGISTRY}serving:${TAG}"]
}

target "tensorflow" {
  inherits = ["common"]
  target   = "server"
  args     = { EXTRAS = "cpu,remote,tensorflow" }
  tags     = ["${REGISTRY}serving:${TAG}-tensorflow"]
}

# onnxruntime-gpu has no wheel for arm64.
target "gpu" {
  inherits = ["common"]
  target   = "server"
  args     = { DEVICE = "gpu", EXTRAS = "gpu,remote" }
  tags     = ["${REGISTRY}serving:${TAG}-gpu"]
}

target "trainers" {
  inherits = ["common"]
  target   = "trainers"
  tags     = ["${REGISTRY}trainers:${TAG}"]
}

target "release-common" {
  attest = ["type=sbom", "type=provenance,mode=max"]
}

target "cpu-release" {
  inherits  = ["cpu", "release-common"]
  platforms = ["linux/amd64", "linux/arm64"]
}

target "tensorflow-release" {
  inherits  = ["tensorflow", "release-common"]
  platforms = ["linux/amd64", "linux/arm64"]
}

target "gpu-release" {
  inherits  = ["gpu", "release-common"]
  platforms = ["linux/amd64"]
}

target "trainers-release" {
  inherits  = ["trainers", "release-common"]
  platforms = ["linux/amd64", "linux/arm64"]
}
