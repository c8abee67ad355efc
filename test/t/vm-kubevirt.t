#!/bin/sh
# See LICENSE file for copyright and license details.
# The container image as KubeVirt starts it, with what the page says.
set -eu
top=$(cd "$(dirname "$0")/../.." && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 1' HUP INT TERM

make -s -C "$top" image IMAGE="$tmp/image.tar"
"$top/test/vm/boot" kubevirt "$tmp/image.tar=/image.tar" \
	"$top/doc/kubevirt.md=/kubevirt.md" \
	"$top/test/vm/kubevirt/daemonset.yaml=/daemonset.yaml" \
	"$top/test/vm/kubevirt/kubelet=/bin/kubelet" \
	"$top/test/vm/kubevirt/virt-handler=/bin/virt-handler" \
	/usr/share/containers/seccomp.json
