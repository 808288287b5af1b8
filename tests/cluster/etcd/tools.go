// Package tools names what tests/cluster/install builds.
package tools

import _ "go.etcd.io/etcd/server/v3/etcdmain"
