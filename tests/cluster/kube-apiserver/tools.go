// Package tools names what tests/cluster/install builds.
package tools

import _ "k8s.io/kubernetes/cmd/kube-apiserver/app"
