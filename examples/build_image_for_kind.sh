#!/bin/sh
# Builds a target of the Dockerfile and gives it to kind's nodes: build_image_for_kind.sh NAME TARGET
# KIND_CLUSTER is the cluster's name, as in `kind create cluster --name`.
set -eu
docker build --quiet --target "$2" --tag "$1" .
kind load docker-image --name "${KIND_CLUSTER:-kind}" "$1"
