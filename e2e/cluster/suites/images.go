//go:build images

package main

// The image that the suites' pods run: keeps what it requires in go.mod.
import _ "k8s.io/kubernetes/test/images/agnhost"
