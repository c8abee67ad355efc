#!/bin/sh
# See LICENSE file for copyright and license details.
# Guests of the distribution's libvirt, set up as doc/libvirt.md says; see
# ../vm/case/libvirt.sh.
here=$(cd "$(dirname "$0")" && pwd)
exec "$here/../vm/guest" libvirt "$here/../../doc/libvirt.md=/page.md"
